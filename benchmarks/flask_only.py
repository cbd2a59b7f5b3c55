"""A gunicorn worker class in which every request takes Flask's routes: what the short way is compared with."""

from __future__ import annotations

from gunicorn.workers.ggevent import GeventWorker

from gateway_web.ingress.short_way import ShortWay


class Worker(GeventWorker):  # type: ignore[misc]
    """gunicorn's gevent worker around Flask alone."""

    def load_wsgi(self) -> None:
        """Load the application and leave out what stands in front of Flask.

        Raises:
            TypeError: nothing stands there, so there would be nothing to compare.
        """
        super().load_wsgi()
        way = self.wsgi.wsgi_app
        if not isinstance(way, ShortWay):
            raise TypeError("the application has no short way")
        self.wsgi.wsgi_app = way.flask
