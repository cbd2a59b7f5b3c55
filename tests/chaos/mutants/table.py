"""The planted faults: each breaks one rule of the design (docs/decisions/0009), and names the tests that must notice.

The table is data: what stands in a file, what is put in its place. ``python -m tests.chaos.mutants.run`` plants them
one at a time in a copy of the tree; ``test_table.py`` keeps the table true to the files.
"""

from __future__ import annotations

from dataclasses import dataclass

CREDENTIALS = "tests/worker/credentials"
SESSION_NAMES = "tests/common/calls/test_session_names.py"
LUA = "common/store/lua"
STORE = "tests/common/store"
PERMITS = "tests/common/store/test_permit_scripts.py"
LIMITS = "tests/web/ingress/test_limits.py"
QUARANTINE = "tests/common/registry/test_quarantine.py"
AUDIT = "tests/common/audit"
JSONRPC = "tests/common/mcp/test_jsonrpc.py"
CLIENT_SOCKET = "tests/web/test_client_socket.py"
POLICY_DOORS = "tests/web/ingress/test_policy.py"
IDENTITY = "tests/web/identity"
EGRESS = "tests/worker/egress"
TENANTS = "tests/security/test_tenants.py"


@dataclass(frozen=True, slots=True)
class Edit:
    """``old`` stands exactly once in ``file`` (from the root of the tree); ``new`` takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One fault. ``breaks`` is the rule that no longer holds.

    Each of ``tests`` (pytest node ids; all cases of a parametrized one if none is named) must fail with it, a
    parametrized one in one of its cases at least.
    """

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="delayed-calls-show-arguments",
        breaks="nobody who looks at a worker sees what a call was given",
        edits=(Edit("gateway_worker/discreet.py", '"args": REDACTED, "kwargs": {}', '"args": self._args'),),
        tests=("tests/e2e/test_delayed.py::test_what_waits_is_shown_without_what_it_was_given",),
    ),
    Mutant(
        name="metadata-by-range",
        breaks="a cloud's metadata service is opened by its own address alone",
        edits=(Edit("common/domain/egress.py", "if place is Place.METADATA:", "if not place:"),),
        tests=(
            "tests/common/domain/test_egress.py::test_a_metadata_service_is_opened_by_its_own_address_alone",
        ),
    ),
    Mutant(
        name="remote-text-is-obeyed",
        breaks="what others wrote reaches the terminal as plain text",
        edits=(
            Edit("gateway_web/cli/output.py", "out.print(Text(printable_lines(text)))", "out.print(text)"),
        ),
        tests=("tests/web/cli/test_hostile_text.py::test_a_result_is_shown_and_not_obeyed",),
    ),
    Mutant(
        name="hidden-tools-are-not-recorded",
        breaks="a denial that its caller does not see is in the journal",
        edits=(
            Edit(
                "gateway_web/ingress/targets.py",
                "        _note(gateway, mcp, naming.split(name, gateway.catalogue.ids()), name, error)\n",
                "",
            ),
        ),
        tests=(f"{POLICY_DOORS}::test_a_denial_that_its_caller_does_not_see_is_recorded",),
    ),
    Mutant(
        name="case-opens-another-s-secrets",
        breaks="ids that differ in case have credentials of their own on every file system",
        edits=(Edit("gateway_worker/credentials/files.py", " or not _is_so_named(place)", ""),),
        tests=(
            f"{CREDENTIALS}/test_providers.py::TestFiles::test_names_that_differ_in_case_are_two_wherever_they_lie",
        ),
    ),
    Mutant(
        name="streams-never-close",
        breaks="a stream that its client has left is counted no more",
        edits=(
            Edit(
                "gateway_web/ingress/open_streams.py",
                "open_now.pop().count(NAME, transport, by=-1)",
                "open_now.pop()",
            ),
        ),
        tests=("tests/e2e/test_metrics.py::test_streams_are_counted_while_they_stand_open",),
    ),
    Mutant(
        name="cluster-figures-from-all",
        breaks="what Redis says of the cluster is pushed by one process at a time",
        edits=(Edit("common/metrics/push.py", "self._read() if mine else []", "self._read()"),),
        tests=("tests/common/metrics/test_push.py::test_one_process_at_a_time_pushes_what_redis_says",),
    ),
    Mutant(
        name="pushed-by-forks",
        breaks="a fork does not push its parent's figures again",
        edits=(
            Edit("common/metrics/push.py", "        return os.getpid() == self._pid", "        return True"),
        ),
        tests=("tests/common/metrics/test_push.py::test_a_fork_pushes_nothing_of_its_parent_s",),
    ),
    Mutant(
        name="no-last-push",
        breaks="a process that ends pushes what it counted since its last push",
        edits=(Edit("common/metrics/push.py", "            self._push(last=True)\n", ""),),
        tests=(
            "tests/common/metrics/test_push.py::test_a_process_that_ends_pushes_once_more_and_waits_no_longer_than_that",
        ),
    ),
    Mutant(
        name="alert-threshold",
        breaks="each alert fires in its condition, and not beside it",
        edits=(Edit("deploy/monitoring/alerts.yml", "> 0.05", "> 0.5"),),
        tests=(
            "tests/docs/test_alert_rules.py::test_each_alert_fires_in_its_condition_and_is_silent_beside_it",
        ),
    ),
    Mutant(
        name="flower-open",
        breaks="nobody looks at Flower without a token",
        edits=(
            Edit(
                "gateway_worker/monitor/application.py",
                "        if status is not None:\n",
                "        if status == 403:\n",
            ),
        ),
        tests=("tests/e2e/test_flower.py::test_nobody_looks_without_a_token",),
    ),
    Mutant(
        name="flower-arguments",
        breaks="Flower keeps no arguments, whoever tells them",
        edits=(
            Edit(
                "gateway_worker/monitor/redaction.py",
                "for name, value in event.items() if name in OF_EVENTS}",
                "for name, value in event.items()}",
            ),
        ),
        tests=("tests/worker/monitor/test_redaction.py::test_no_text_that_can_hold_an_argument_is_kept",),
    ),
    Mutant(
        name="flower-controls",
        breaks="Flower changes nothing: what is not listed does not exist",
        edits=(
            Edit(
                "gateway_worker/monitor/application.py",
                'return self.get_handler_delegate(request, Refused, {"status": 404 if found is None else 403})',
                "return super().find_handler(request)",
            ),
        ),
        tests=("tests/e2e/test_flower.py::test_nothing_can_be_changed_nor_a_result_be_read",),
    ),
    Mutant(
        name="late-answer",
        breaks="the late answer of a node that was declared dead is refused",
        edits=(Edit(f"{LUA}/finish.lua", "if before == 'late' then", "if false then"),),
        tests=(
            f"{STORE}/test_ledger_scripts.py::TestEnded::test_the_late_answer_of_a_dead_node_is_refused",
            f"{STORE}/test_ledger_scripts.py::TestEnded::test_a_late_answer_of_what_another_has_by_now_is_refused",
        ),
    ),
    Mutant(
        name="reload-in-part",
        breaks="a reload of which a part cannot be made changes nothing",
        edits=(
            Edit(
                "common/control/reload.py",
                "    commits = [prepare(changes) for prepare in prepares]",
                "    commits = (prepare(changes) for prepare in prepares)",
            ),
        ),
        tests=("tests/web/test_reload.py::test_what_fails_last_keeps_back_what_was_made_before",),
    ),
    Mutant(
        name="reload-without-a-tool",
        breaks="a file with a tool that cannot be made is refused by a reload",
        edits=(
            Edit(
                "common/control/reload.py",
                "    return [*problems, *evaluator_problems(settings.policy)]",
                "    return evaluator_problems(settings.policy)",
            ),
        ),
        tests=("tests/web/test_reload.py::test_settings_with_a_broken_tool_are_refused",),
    ),
    Mutant(
        name="reload-half-of-identity",
        breaks="identity is taken over as a whole or not at all",
        edits=(
            Edit(
                "common/settings/changes.py",
                'if section == "identity" and _held_back(now, wanted):',
                'if section == "identity" and False:',
            ),
        ),
        tests=(
            "tests/common/settings/test_changes.py::test_identity_is_taken_over_as_a_whole_or_not_at_all",
        ),
    ),
    Mutant(
        name="apply-over-others",
        breaks="applying a file leaves what others changed meanwhile",
        edits=(
            Edit(
                "common/control/apply.py",
                "expected=ABSENT if found is None else found.version,",
                "",
            ),
        ),
        tests=("tests/web/cli/test_apply.py::test_what_others_change_meanwhile_stays_and_is_named",),
    ),
    Mutant(
        name="newer-definition-misread",
        breaks="a definition that a newer release wrote is never read as if it were ours",
        edits=(
            Edit(
                "common/registry/records.py",
                """    check_format(record, what=f"the definition of tool {name!r}")\n""",
                "",
            ),
        ),
        tests=(
            "tests/common/domain/test_formats.py::test_a_newer_record_is_refused_with_both_versions",
            "tests/common/registry/test_catalogue.py::test_a_newer_definition_is_unreadable_and_not_gone",
        ),
    ),
    Mutant(
        name="newer-tool-not-found",
        breaks="a call of a tool that only a newer release can read goes to a worker of that",
        edits=(
            Edit(
                "gateway_worker/execute.py",
                "if entry is None and invocation.tool in self._catalogue.unreadable:",
                "if False:",
            ),
        ),
        tests=("tests/worker/test_execute.py::test_a_call_of_a_newer_tool_goes_back",),
    ),
    Mutant(
        name="newer-result-waited-for",
        breaks="a result that a newer release wrote ends its call at once",
        edits=(
            Edit(
                "common/calls/contract.py",
                "except (PayloadUnreadable, FormatTooNew) as error:",
                "except PayloadUnreadable as error:",
            ),
        ),
        tests=("tests/common/domain/test_formats.py::test_a_newer_result_ends_the_call_at_once",),
    ),
    Mutant(
        name="retired-too-soon",
        breaks="a tool that is gone from the file ends the calls that it has",
        edits=(
            Edit(
                "common/registry/retirement.py",
                "            if left.waiting or left.in_flight:",
                "            if False:",
            ),
        ),
        tests=(
            "tests/common/registry/test_retirement.py::test_a_tool_goes_when_its_calls_have_ended_and_not_before",
        ),
    ),
    Mutant(
        name="retired-unheard",
        breaks="workers run what was accepted of a tool that is gone from the file",
        edits=(Edit("gateway_worker/execute.py", "if not entry.runs_calls:", "if not entry.enabled:"),),
        tests=("tests/worker/test_execute.py::test_a_retiring_tool_runs_what_was_accepted",),
    ),
    Mutant(
        name="no-tombstone",
        breaks="a node with a tombstone gets no lease any more",
        edits=(Edit(f"{LUA}/node_beat.lua", "if redis.call('EXISTS', KEYS[2]) == 1 then", "if false then"),),
        tests=(f"{STORE}/test_node_scripts.py::test_a_node_whose_lease_ended_is_declared_dead_and_stays_so",),
    ),
    Mutant(
        name="every-trace",
        breaks="a call whose trace is not recorded has no span and no header",
        edits=(
            Edit(
                "common/telemetry/spans.py",
                "if not (parent.sampled if decides else self._within(parent.trace_id)):",
                "if False:",
            ),
        ),
        tests=(
            "tests/common/telemetry/test_spans.py::test_a_parent_decides_where_it_is_trusted",
            "tests/web/ingress/test_account.py::test_of_what_is_not_recorded_there_is_nothing",
        ),
    ),
    Mutant(
        name="two-contexts",
        breaks="what a client says of its trace is replaced where the call is traced",
        edits=(
            Edit("common/telemetry/spans.py", "for name in (TRACEPARENT, TRACESTATE):", "for name in ():"),
        ),
        tests=(
            "tests/common/telemetry/test_spans.py::test_a_state_of_the_client_s_does_not_stay_beside_another_trace",
        ),
    ),
    Mutant(
        name="endless-spans",
        breaks="spans that a collector does not take are bounded",
        edits=(Edit("common/telemetry/export.py", "if len(self._waiting) >= self._most:", "if False:"),),
        tests=("tests/common/telemetry/test_export.py::test_nothing_waits_for_a_collector_that_hangs",),
    ),
    Mutant(
        name="lasting-facts",
        breaks="no log line names a call that has ended",
        edits=(
            Edit(
                "common/telemetry/about.py",
                "return None if about is None or about.ended else about",
                "return about",
            ),
        ),
        tests=(
            "tests/common/telemetry/test_about.py::test_what_began_in_a_call_and_outlives_it_says_nothing_of_it",
        ),
    ),
    Mutant(
        name="session-in-a-call",
        breaks="the lines of a tool session name no call, although one began it",
        edits=(
            Edit(
                "gateway_worker/tool_session.py",
                "context=session_context(self.key.tool, self.key.session, node),",
                "",
            ),
        ),
        tests=("tests/worker/test_tracing.py::test_lines_of_a_call_and_of_its_session",),
    ),
    Mutant(
        name="same-token",
        breaks="the fencing token grows with every claim",
        edits=(
            Edit(
                f"{LUA}/lib/owners.lua",
                "math.max(last + 1, time[1] * 1000000 + time[2])",
                "math.max(last, 1)",
            ),
        ),
        tests=(
            f"{STORE}/test_owner_scripts.py::TestOwner::test_a_dead_owner_s_session_is_claimed_with_a_greater_token",
            f"{STORE}/test_owner_scripts.py::TestOwner::test_the_token_grows_over_a_redis_that_forgot_it",
        ),
    ),
    Mutant(
        name="client-clock",
        breaks="leases are measured by Redis' clock, not by that of the machine that asks",
        edits=(
            Edit(
                f"{LUA}/node_beat.lua",
                "local now = t[1] * 1000 + math.floor(t[2] / 1000)",
                "local now = tonumber(ARGV[3])",
            ),
            Edit(
                "gateway_worker/nodes.py",
                "[self._node.id, int(LEASE * 1000)],",
                "[self._node.id, int(LEASE * 1000), int(time.time() * 1000)],",
            ),
        ),
        tests=("tests/worker/test_wrong_clocks.py::test_a_lease_ends_by_redis_clock",),
    ),
    Mutant(
        name="permit-of-the-dead",
        breaks="the permit of a call that died with its node is given back",
        edits=(
            Edit(
                f"{LUA}/node_rescue.lua",
                "  redis.call('ZREM', prefix .. 'circuit-permits:' .. head.tool, id)\n",
                "",
            ),
        ),
        tests=(
            f"{STORE}/test_rescue_scripts.py::TestEachCall::test_permits_of_a_half_open_circuit_come_back",
        ),
    ),
    Mutant(
        name="permit-of-the-neutral",
        breaks="a call whose end says nothing of the backend gives its permit back",
        edits=(
            Edit(
                f"{LUA}/circuit_report.lua",
                "    if outcome == 'neutral' then redis.call('ZREM', permits_key, id) end\n",
                "",
            ),
        ),
        tests=(f"{STORE}/test_circuit_scripts.py::test_a_neutral_end_gives_the_permit_back",),
    ),
    Mutant(
        name="joined-keys",
        breaks="the sessions of two callers never share a name, whatever their names are",
        edits=(
            Edit(
                "common/calls/head.py",
                'return ":".join(map(encode_part, parts))',
                'return "-".join(map(encode_part, parts))',
            ),
        ),
        tests=("tests/common/calls/test_session_names.py::test_parts_never_run_together[-]",),
    ),
    Mutant(
        name="whole-environment",
        breaks="a child gets nothing of our environment but a few listed variables",
        edits=(
            Edit(
                "gateway_worker/egress/process.py",
                "base = {name: os.environ[name] for name in INHERITED if name in os.environ}",
                "base = dict(os.environ)",
            ),
        ),
        tests=(
            "tests/worker/egress/test_process.py::test_the_environment_is_minimal",
            "tests/worker/egress/test_process.py::test_a_real_child_sees_no_secret_of_ours",
        ),
    ),
    Mutant(
        name="any-generation",
        breaks="a call that was admitted before a circuit's last change says nothing after it",
        edits=(
            Edit(
                f"{LUA}/circuit_report.lua",
                "if tonumber(admitted) ~= generation or state == 'open' then",
                "if state == 'open' then",
            ),
        ),
        tests=(f"{STORE}/test_circuit_scripts.py::test_a_success_of_the_holder_closes_it",),
    ),
    Mutant(
        name="session-of-anybody",
        breaks="an MCP session is its principal's alone, at every method and route",
        edits=(
            Edit(
                "common/sessions/mcp.py",
                "if session.principal != principal or session.tool != tool:",
                "if session.tool != tool:",
            ),
        ),
        tests=(
            f"{TENANTS}::test_a_method_in_another_tenants_session",
            f"{TENANTS}::test_a_route_with_another_tenants_name",
        ),
    ),
    Mutant(
        name="session-without-tenant",
        breaks="the tool session of a client is one of its tenant",
        edits=(
            Edit(
                "common/calls/head.py",
                "parts = [caller.tenant, caller.client]",
                "parts = [caller.client, caller.client]",
            ),
        ),
        tests=("tests/common/calls/test_session_names.py::test_clients_of_one_name_are_two_in_two_tenants",),
    ),
    Mutant(
        name="stream-of-anybody",
        breaks="nobody but the session that made a call comes back to its stream",
        edits=(
            Edit(
                "common/gateway/calling.py",
                "if stream is None or stream.invocation.mcp_session != session.id:",
                "if stream is None:",
            ),
        ),
        tests=(f"{TENANTS}::test_a_place_in_another_tenants_stream",),
    ),
    Mutant(
        name="answer-of-anybody",
        breaks="nobody but who was asked answers a backend's question",
        edits=(Edit(f"{LUA}/client_answer.lua", "if asked ~= ARGV[1] then", "if not asked then"),),
        tests=(f"{TENANTS}::test_an_answer_to_another_tenants_question",),
    ),
    Mutant(
        name="state-of-anybody",
        breaks="a requestState is good for the principal that it was given to",
        edits=(Edit("common/calls/request_state.py", "        invocation.caller.principal,\n", ""),),
        tests=("tests/common/calls/test_request_state.py::test_it_is_of_no_other_call",),
    ),
    Mutant(
        name="unlisted-route",
        breaks="a new route says who may ask, and whose names it takes",
        edits=(
            Edit(
                "gateway_web/app.py",
                '(("livez", livez), ("readyz", readyz))',
                '(("livez", livez), ("readyz", readyz), ("debugz", readyz))',
            ),
        ),
        tests=(
            f"{IDENTITY}/test_matrix.py::test_every_route_has_a_row_and_every_row_a_route",
            f"{TENANTS}::test_every_route_has_a_row",
        ),
    ),
    Mutant(
        name="logs-of-anybody",
        breaks="what a shared child logs is told while it is at work for one principal alone",
        edits=(
            Edit(
                "gateway_worker/egress/parties.py",
                "if len(self._at_work) != 1 or None in self._at_work:",
                "if not self._at_work:",
            ),
        ),
        tests=(f"{EGRESS}/test_parties.py::test_a_log_message_is_told_only_while_it_is_certain_whose_it_is",),
    ),
    Mutant(
        name="cap-on-calls",
        breaks="a cap on sessions refuses their creation only, never a call of one that lives",
        edits=(
            Edit(
                f"{LUA}/fetch.lua",
                "local verdict = 'held'",
                "local verdict = cap_reached(whole(head)) or 'held'",
            ),
        ),
        tests=(f"{STORE}/test_cap_scripts.py::TestCaps::test_a_session_that_lives_goes_on_at_the_bound",),
    ),
    Mutant(
        name="sent-again",
        breaks="a call that the backend may have seen is sent again with leave only",
        edits=(
            Edit(
                "gateway_worker/execute.py",
                "return error.unsent or _may_run_twice(leave, error)",
                "return True",
            ),
        ),
        tests=(
            "tests/worker/test_execute.py::test_a_call_that_may_have_run_is_sent_again_with_leave_only[unsent-1]",
        ),
    ),
    Mutant(
        name="no-self-fence",
        breaks="a node that is not sure of its lease sends nothing to a backend",
        edits=(
            Edit("gateway_worker/execute.py", "if self._node.may_act:", "if True:"),
            Edit("gateway_worker/execute.py", "if not self._node.may_act:", "if False:"),
            Edit("gateway_worker/claims.py", "not claim.lost and self._node.may_act", "True"),
        ),
        tests=("tests/worker/test_execute.py::test_a_session_that_was_lost_gets_nothing_more",),
    ),
    Mutant(
        name="begun-twice",
        breaks="an id is begun once, however often it is sent",
        edits=(
            Edit(
                f"{LUA}/lib/lists.lua",
                "return redis.call('HSETNX', prefix .. 'calls:' .. head.queue, id, place) == 1",
                "return redis.call('HSETNX', prefix .. 'calls:' .. head.queue, id, place) >= 0",
            ),
        ),
        tests=(
            f"{STORE}/test_ledger_scripts.py::TestBegun::test_an_id_is_begun_once",
            f"{STORE}/test_ledger_scripts.py::TestBegun::test_of_two_nodes_one_begins_it",
        ),
    ),
    Mutant(
        name="all-lost",
        breaks="what a dead node had not sent, or what has leave, goes back to its queue",
        edits=(
            Edit(
                f"{LUA}/node_rescue.lua",
                "if (unsent or head.leave == 'safe') and attempt <= tonumber(ARGV[4]) then",
                "if false then",
            ),
        ),
        tests=(
            f"{STORE}/test_rescue_scripts.py::TestEachCall::test_each_goes_its_way",
            f"{STORE}/test_rescue_scripts.py::TestEachCall::test_what_goes_back_may_be_begun_again",
        ),
    ),
    Mutant(
        name="all-again",
        breaks="what a dead node may have sent without leave does not run again",
        edits=(
            Edit(
                f"{LUA}/node_rescue.lua",
                "if (unsent or head.leave == 'safe') and attempt <= tonumber(ARGV[4]) then",
                "if attempt <= tonumber(ARGV[4]) then",
            ),
        ),
        tests=(f"{STORE}/test_rescue_scripts.py::TestEachCall::test_each_goes_its_way",),
    ),
    Mutant(
        name="drain-refuses-all",
        breaks="a tool that is drained goes on serving the sessions that live",
        edits=(Edit(f"{LUA}/admit.lua", "if not owned then", "if not owned or ARGV[5] == '0' then"),),
        tests=(f"{STORE}/test_cap_scripts.py::TestCaps::test_draining_takes_calls_of_living_sessions_only",),
    ),
    Mutant(
        name="stale-definition",
        breaks="a changed or removed definition ends the sessions of the old one",
        edits=(
            Edit(
                "gateway_worker/sessions.py",
                '("definition changed", self._changed(session)),',
                '("definition changed", False),',
            ),
        ),
        tests=(
            "tests/worker/test_sessions.py::test_a_changed_definition_is_a_new_session",
            "tests/worker/test_sessions.py::test_the_sessions_of_a_removed_tool_end",
        ),
    ),
    Mutant(
        name="daemons-survive",
        breaks="what a child left behind in sessions of its own ends with the child",
        edits=(
            Edit(
                "common/processes/family.py",
                'return bool(mark) and (process.mark == mark or process.mark.startswith(mark + "."))',
                "return not mark",
            ),
        ),
        tests=(
            "tests/common/processes/test_tree.py::test_daemons_of_a_marked_child_are_ended_too",
            "tests/worker/egress/test_process_end.py::test_daemons_end_with_the_child",
        ),
    ),
    Mutant(
        name="duplicate-keys",
        breaks="JSON that says one key twice is refused",
        edits=(
            Edit(
                "common/mcp/jsonrpc.py",
                'if outside_strings.count(b":") != _count_members(value, max_depth):',
                "if _count_members(value, max_depth) < 0:",
            ),
        ),
        tests=(
            "tests/common/mcp/test_strict_json.py::test_a_duplicate_key_is_found_wherever_it_hides",
            "tests/common/mcp/test_strict_json.py::test_an_ambiguous_or_invalid_text_is_refused_with_the_reason",
        ),
    ),
    Mutant(
        name="any-token",
        breaks="a session is given back under the token of its claim only",
        edits=(
            Edit(
                f"{LUA}/lib/owners.lua",
                "if owner ~= node or (token and held ~= token) then",
                "if owner ~= node then",
            ),
        ),
        tests=(
            f"{STORE}/test_owner_scripts.py::TestOwner::test_only_the_owner_under_its_token_frees_a_session",
            f"{STORE}/test_owner_scripts.py::TestOwner::test_a_release_that_comes_twice_does_not_take_the_next_claim",
        ),
    ),
    Mutant(
        name="repeated-commands",
        breaks="a command whose answer was lost is not sent to Redis a second time",
        edits=(Edit("common/store/client.py", "retry=Retry(NoBackoff(), 0)", "retry=Retry(NoBackoff(), 3)"),),
        tests=(
            f"{STORE}/test_client.py::test_a_lost_reply_is_an_error_and_no_second_try",
            f"{STORE}/test_client.py::test_a_lost_reply_to_a_loaded_script_is_one_run",
        ),
    ),
    Mutant(
        name="look-alikes",
        breaks="what a reader that folds names takes for another member is refused",
        edits=(Edit("common/mcp/jsonrpc.py", "    _refuse_look_alikes(params, _PARAMS)", "    pass"),),
        tests=(f"{JSONRPC}::test_what_a_folding_reader_takes_for_another_member_is_refused",),
    ),
    Mutant(
        name="stale-pins",
        breaks="a judgement on pins that are others by now is not stored",
        edits=(
            Edit(
                f"{LUA}/lib/pins.lua",
                "if (redis.call('HGET', pins, 'version') or '0') ~= ARGV[at] then return false end",
                "",
            ),
        ),
        tests=(
            f"{QUARANTINE}::test_a_judgement_on_pins_that_are_others_by_now_is_not_stored",
            "tests/lua/test_pins_twin.py::test_twins",
        ),
    ),
    Mutant(
        name="unseen-approval",
        breaks="an operator approves the definition that he saw, or nothing",
        edits=(Edit("common/domain/pins.py", "if not waits.digest.startswith(digest):", "if False:"),),
        tests=(
            f"{QUARANTINE}::test_what_an_operator_did_not_see_he_does_not_approve",
            "tests/common/domain/test_pins.py::test_an_approval_is_of_what_was_seen",
        ),
    ),
    Mutant(
        name="unbound-payload",
        breaks="a sealed payload opens at its own place alone",
        edits=(
            Edit(
                "common/store/sealing.py",
                'return "|".join(map(encode_part, (self._prefix, *place))).encode()',
                'return b""',
            ),
        ),
        tests=(
            f"{STORE}/test_sealing.py::test_it_opens_nowhere_else",
            "tests/worker/test_sealed_calls.py::test_a_call_of_another_message_is_not_read",
        ),
    ),
    Mutant(
        name="plain-answers",
        breaks="an answer that nobody sealed is not taken where payloads are sealed",
        edits=(
            Edit(
                "common/calls/contract.py",
                "if seals is not None and result.answered and not seals.accept_plain:",
                "if False:",
            ),
        ),
        tests=("tests/worker/test_sealed_calls.py::test_a_waiting_process_always_gets_an_end",),
    ),
    Mutant(
        name="short-body",
        breaks="a request whose body ends early is refused",
        edits=(Edit("gateway_web/guards.py", "if length and len(body) < int(length):", "if False:"),),
        tests=("tests/web/test_guards.py::test_a_body_that_ends_early_is_refused",),
    ),
    Mutant(
        name="credentials-of-a-pool",
        breaks="the sessions of a pool, which serve everybody, act as no tenant",
        edits=(
            Edit(
                "common/domain/credential_rules.py",
                "if routing is Routing.LEAST_LOADED and rules.scope is not CredentialScope.TOOL:",
                "if False:",
            ),
        ),
        tests=("tests/common/domain/test_credentials.py::test_rules_that_contradict_their_tool_are_refused",),
    ),
    Mutant(
        name="credentials-passed-over",
        breaks="a provider that fails is not passed over for the next one",
        edits=(
            Edit(
                "gateway_worker/credentials/asking.py",
                "if outcome.failure or outcome.credentials is not None:",
                "if outcome.credentials is not None:",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_sessions.py::test_the_first_that_knows_wins_and_one_that_fails_ends_it",),
    ),
    Mutant(
        name="credentials-of-before-an-order",
        breaks="what was asked for before an order to forget is not used after it",
        edits=(Edit("gateway_worker/credentials/cache.py", "self._flights.pop(wanted).void = True", "pass"),),
        tests=(
            f"{CREDENTIALS}/test_cache.py::test_what_was_asked_for_before_an_order_to_forget_is_not_used",
        ),
    ),
    Mutant(
        name="credentials-outlive-rotation",
        breaks="a session whose secrets are others by now gets no further call",
        edits=(
            Edit(
                "gateway_worker/credentials/identity.py",
                "elif found.fingerprint != used.fingerprint:",
                "elif False:",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_sessions.py::test_a_changed_secret_is_found_without_an_order",),
    ),
    Mutant(
        name="credentials-forged",
        breaks="a caller cannot put a value of its own in a secret's place",
        edits=(
            Edit(
                "common/credentials/injection.py",
                "        else:\n            merged[name] = value",
                "        else:\n            merged.setdefault(name, value)",
            ),
        ),
        tests=(
            "tests/common/credentials/test_injection.py::test_what_is_the_gateways_own_wins",
            f"{CREDENTIALS}/test_sessions.py::test_every_request_has_them_in_its_meta",
        ),
    ),
    Mutant(
        name="credentials-sent-again",
        breaks="a call whose credentials were refused is sent again with leave alone",
        edits=(
            Edit(
                "gateway_worker/credentials/refusal.py",
                "if changed and allowed and not self._renewed:",
                "if changed and not self._renewed:",
            ),
        ),
        tests=(
            f"{CREDENTIALS}/test_refusal.py::test_a_call_that_was_refused_is_sent_again_with_leave_alone",
        ),
    ),
    Mutant(
        name="credentials-token-cut-short",
        breaks="an issued token is kept to its expiry",
        edits=(Edit("gateway_worker/credentials/cache.py", "if found.issued:", "if False:"),),
        tests=(
            f"{CREDENTIALS}/test_client_credentials.py::test_many_ask_once_and_the_token_is_kept_to_its_expiry",
        ),
    ),
    Mutant(
        name="credentials-token-of-another-type",
        breaks="a token of a type that is not understood is not used",
        edits=(
            Edit(
                "gateway_worker/credentials/token_endpoint.py",
                "if not isinstance(kind, str) or kind.lower() not in kinds:",
                "if not isinstance(kind, str):",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_client_credentials.py::test_a_server_that_misbehaves_is_a_failure",),
    ),
    Mutant(
        name="credentials-words-repeated",
        breaks="what an authorization server says is not repeated",
        edits=(
            Edit(
                "gateway_worker/credentials/token_endpoint.py",
                "isinstance(code, str) and code in _KNOWN_ERRORS",
                "isinstance(code, str)",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_client_credentials.py::test_a_server_that_misbehaves_is_a_failure",),
    ),
    Mutant(
        name="credentials-of-another-subject",
        breaks="two subjects of one client never share a session that carries one's token",
        edits=(
            Edit(
                "common/calls/head.py",
                'own = (caller.subject, " ".join(sorted(caller.scopes)))',
                'own = ("ann", "")',
            ),
        ),
        tests=(
            f"{SESSION_NAMES}::test_each_subjects_own_session_has_its_subject_and_scopes_in_its_name",
            f"{CREDENTIALS}/test_token_exchange.py::test_two_subjects_of_one_client_never_share_a_session",
        ),
    ),
    Mutant(
        name="credentials-of-a-client-for-a-subject",
        breaks="a provider that knows nothing of subjects is not asked for a subject's credentials",
        edits=(
            Edit(
                "gateway_worker/credentials/identity.py",
                "if name not in WITHOUT_SUBJECTS)",
                "if name)",
            ),
        ),
        tests=(
            f"{CREDENTIALS}/test_token_exchange.py::test_providers_that_know_nothing_of_subjects_are_not_asked",
        ),
    ),
    Mutant(
        name="credentials-long-statement",
        breaks="what the gateway signs of a subject is good for a minute",
        edits=(Edit("gateway_worker/credentials/signing.py", "LIFE = 60\n", "LIFE = 3600\n"),),
        tests=(f"{CREDENTIALS}/test_signing.py::test_a_statement_is_good_for_a_minute_and_once",),
    ),
    Mutant(
        name="credentials-names-run-together",
        breaks="two ids in a secret's name are kept apart",
        edits=(
            Edit(
                "common/settings/secret_names.py",
                'if not all("-" in part or "/" in part for part in _BETWEEN.findall(value)):',
                "if False:",
            ),
        ),
        tests=(
            "tests/common/settings/test_every_setting.py::test_a_wrong_value_is_refused_by_name_and_never_repeated",
        ),
    ),
    Mutant(
        name="credentials-refusal-as-outage",
        breaks="a token that is refused now ends what was issued before",
        edits=(
            Edit(
                "gateway_worker/credentials/identity.py",
                "if found.outcome.refused or time.monotonic() >= used.expires:",
                "if time.monotonic() >= used.expires:",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_token_exchange.py::test_a_refusal_is_no_outage",),
    ),
    Mutant(
        name="credentials-cache-without-tenant",
        breaks="what is kept of one tenant's credentials is handed out to no other",
        edits=(
            Edit(
                "gateway_worker/credentials/cache.py",
                "        while True:\n            kept =",
                "        wanted = wanted._replace(request=type(wanted.request)(tool=wanted.request.tool))\n"
                "        while True:\n            kept =",
            ),
        ),
        tests=(
            f"{CREDENTIALS}/test_cache.py::test_what_is_kept_is_one_tenant_s",
            f"{CREDENTIALS}/test_sessions.py::test_the_scope_says_whose_they_are",
        ),
    ),
    Mutant(
        name="credentials-vault-drips",
        breaks="an answer of a server of secrets has one time for all of it",
        edits=(Edit("common/egress/deadline.py", "Timer(seconds,", "Timer(seconds * 10,"),),
        tests=(f"{CREDENTIALS}/test_vault.py::test_an_answer_has_one_time_for_all_of_it",),
    ),
    Mutant(
        name="credentials-statement-sent-twice",
        breaks="each attempt at a token endpoint shows a statement of its own",
        edits=(
            Edit(
                "gateway_worker/credentials/token_exchange.py",
                "            lambda: self._grant(request, audience), self._section.leeway, KINDS, ISSUED\n",
                "            lambda kept=self._grant(request, audience): kept, self._section.leeway, KINDS, ISSUED\n",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_token_exchange.py::test_another_attempt_is_another_statement",),
    ),
    Mutant(
        name="credentials-refused-is-missing",
        breaks="a secret manager's refusal is a failure and not a secret that is not there",
        edits=(
            Edit(
                "gateway_worker/credentials/gcp.py",
                "if answer.status == 404:",
                "if answer.status in (403, 404):",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_gcp.py::test_what_goes_wrong_is_a_failure_in_its_own_words",),
    ),
    Mutant(
        name="credentials-any-token-type",
        breaks="what an exchange gives is used only if it is an access token",
        edits=(
            Edit(
                "gateway_worker/credentials/token_endpoint.py",
                'if issued is not None and found.get("issued_token_type") not in issued:',
                "if False:",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_token_exchange.py::test_only_what_is_an_access_token_is_used",),
    ),
    Mutant(
        name="credentials-lent",
        breaks="a probe never goes over the session of a caller with credentials",
        edits=(
            Edit(
                "gateway_worker/probe.py",
                "if backend is not None and entry.tool.credentials is None:",
                "if backend is not None:",
            ),
        ),
        tests=(f"{CREDENTIALS}/test_gateway.py::test_a_probe_never_goes_over_a_callers_session",),
    ),
    Mutant(
        name="stolen-names",
        breaks="a source replaces no tool of the settings file, of an operator or of another source",
        edits=(
            Edit(
                "common/discovery/tools.py",
                "if found is not None and not (_is_discovered(found) and found.registered.source == source):",
                "if False:",
            ),
        ),
        tests=("tests/common/discovery/test_running.py::test_what_others_named_is_theirs",),
    ),
    Mutant(
        name="plugins-of-either",
        breaks="a name that two packages bring is nobody's: which code is loaded is no matter of chance",
        edits=(Edit("common/plugins.py", "if len(found) == 1:", "if found:"),),
        tests=("tests/common/test_plugins.py::test_a_name_that_two_packages_bring_is_nobodys",),
    ),
    Mutant(
        name="executors-idle-on-a-lost-thread",
        breaks="a session on a thread that was given up ends with it, idle or not",
        edits=(
            Edit(
                "gateway_worker/egress/factories.py", "            user.given_up(message)", "            pass"
            ),
        ),
        tests=(
            "tests/worker/egress/test_custom.py::test_all_sessions_of_a_thread_that_was_given_up_are_broken",
        ),
    ),
    Mutant(
        name="executors-stuck-uncounted",
        breaks="every thread that was stopped and has not ended counts, whatever its definition",
        edits=(
            Edit(
                "gateway_worker/egress/factories.py",
                "if thread not in self._stuck:",
                "if thread not in self._stuck and thread.tool not in self._threads:",
            ),
        ),
        tests=("tests/worker/egress/test_custom.py::test_other_definitions_are_no_way_around_the_bound",),
    ),
    Mutant(
        name="masks-follow",
        breaks="who may not read a tool's secrets cannot have them sent to a place of his own",
        edits=(
            Edit(
                "common/settings/definitions.py",
                "if item != MASK or moved or key",
                "if item != MASK or key",
            ),
        ),
        tests=("tests/common/settings/test_definitions.py::test_a_mask_does_not_follow_to_another_place",),
    ),
    Mutant(
        name="factories-of-anybody",
        breaks="code is loaded by the operator's word alone, also at run time",
        edits=(
            Edit(
                "common/domain/egress.py",
                "if transport.factory not in self.allowed_factories:",
                "if not self.allowed_factories:",
            ),
        ),
        tests=("tests/common/domain/test_custom.py::test_it_is_not_registered_at_run_time",),
    ),
    Mutant(
        name="executors-late-writes",
        breaks="an executor sends nothing once the worker is not sure that the session is its own",
        edits=(
            Edit(
                "gateway_worker/egress/custom.py",
                "        # Once more: its loop may have been busy meanwhile.\n        if not self.gate():",
                "        if False:",
            ),
        ),
        tests=(f"{EGRESS}/test_custom.py::test_a_shut_gate_keeps_everything_back",),
    ),
    Mutant(
        name="executors-stuck-for-ever",
        breaks="threads of one tool that block are bounded in number",
        edits=(
            Edit(
                "gateway_worker/egress/factories.py",
                "if sum(thread.tool == tool for thread in self._stuck) >= MOST_STUCK:",
                "if False:",
            ),
        ),
        tests=(f"{EGRESS}/test_custom.py::test_one_that_blocks_holds_up_itself_alone",),
    ),
    Mutant(
        name="executors-words",
        breaks="what an executor raises is told by its type alone: its words may hold a secret",
        edits=(
            Edit(
                "gateway_worker/egress/factories.py",
                "failed ({type(error).__name__[:100]})",
                "failed ({error!r})",
            ),
        ),
        tests=(f"{EGRESS}/test_custom.py::test_what_it_raises_closes_its_session[raise]",),
    ),
    Mutant(
        name="executors-cancel-the-call",
        breaks="a cancellation that an executor makes up is its failure, and not the caller's",
        edits=(
            Edit(
                "gateway_worker/egress/factories.py",
                "fault = error if self._unwanted else ExecutorBroke(error)",
                "fault = error",
            ),
        ),
        tests=(f"{EGRESS}/test_custom.py::test_what_it_raises_closes_its_session[cancel]",),
    ),
    Mutant(
        name="kubernetes-half-known",
        breaks="nothing is named before all namespaces have been listed: the rest would be taken for removed",
        edits=(
            Edit(
                "common/discovery/kubernetes.py",
                "if any(namespace not in known and namespace not in faults for namespace in self._namespaces):",
                "if not known and not faults:",
            ),
        ),
        tests=(
            "tests/common/discovery/test_kubernetes.py::test_nothing_is_named_before_all_namespaces_are_known",
        ),
    ),
    Mutant(
        name="kubernetes-too-old",
        breaks="a version that is too old has everything listed anew",
        edits=(
            Edit(
                "common/discovery/kubernetes.py",
                '                self._version = ""\n            except Passing',
                "                pass\n            except Passing",
            ),
        ),
        tests=(
            "tests/common/discovery/test_kubernetes.py::test_a_version_that_is_too_old_has_it_listed_anew",
        ),
    ),
    Mutant(
        name="kubernetes-names-of-others",
        breaks="ids of a namespace cannot be taken by an annotation in another one",
        edits=(
            Edit(
                "common/discovery/kube_services.py",
                'if "." in tool:',
                "if False:",
            ),
        ),
        tests=(
            "tests/common/discovery/test_kubernetes.py::test_what_is_wrong_with_a_service_is_told_of_it_alone",
        ),
    ),
    Mutant(
        name="kubernetes-older-takes",
        breaks="who has an id keeps it from an older service that wants it later",
        edits=(
            Edit(
                "common/discovery/kube_services.py",
                "present.setdefault(tool, owner if owner in places else places[0])",
                "present.setdefault(tool, places[0])",
            ),
        ),
        tests=("tests/common/discovery/test_kubernetes.py::test_who_has_an_id_keeps_it",),
    ),
    Mutant(
        name="kubernetes-anybody-chooses",
        breaks="ids are chosen in the namespaces that the operator names, and nowhere else",
        edits=(
            Edit(
                "common/discovery/kube_services.py",
                "if place.namespace not in settings.names_from:",
                "if False:",
            ),
        ),
        tests=("tests/common/discovery/test_kubernetes.py::test_ids_are_chosen_where_the_operator_says_so",),
    ),
    Mutant(
        name="kubernetes-one-stops-all",
        breaks="a namespace that is refused stops no other one",
        edits=(
            Edit(
                "common/discovery/kubernetes.py",
                "            except ConfigurationError as error:\n                self._fail(error.message)",
                "            except ConfigurationError:\n                raise",
            ),
        ),
        tests=(
            "tests/common/discovery/test_kubernetes.py::test_a_namespace_that_is_refused_stops_no_other[list]",
        ),
    ),
    Mutant(
        name="discovered-credentials",
        breaks="tools of a source carry credentials only where the operator says so",
        edits=(
            Edit(
                "common/discovery/tools.py",
                "if wanted.credentials is not None and source not in self._with_credentials:",
                "if False:",
            ),
        ),
        tests=(
            "tests/common/discovery/test_running.py::test_credentials_are_for_sources_that_may_ask_for_them",
        ),
    ),
    Mutant(
        name="kubernetes-old-token",
        breaks="the token of the service account is read anew for each request",
        edits=(
            Edit(
                "common/discovery/kube_api.py",
                'token = Path(self._token_file).read_text(encoding="ascii").strip()',
                'token = self._token = getattr(self, "_token", None) or Path(self._token_file).read_text().strip()',
            ),
        ),
        tests=("tests/common/discovery/test_kubernetes.py::test_the_token_is_read_anew",),
    ),
    Mutant(
        name="trusted-sources",
        breaks="what a source names passes the rules of run time",
        edits=(
            Edit(
                "common/discovery/tools.py",
                "origin=Origin.DISCOVERED,",
                "origin=Origin.FILE,",
            ),
        ),
        tests=("tests/common/discovery/test_running.py::test_the_rules_hold_for_what_is_discovered",),
    ),
    Mutant(
        name="forgotten-wait",
        breaks="a call of the Python API whose wait is cancelled while it is queued is cancelled",
        edits=(
            Edit(
                "common/gateway/async_streams.py",
                "beginning.add_done_callback(self._begun_in_vain)",
                "pass",
            ),
        ),
        tests=(
            "tests/common/gateway/test_async.py::test_a_call_that_is_cancelled_while_it_begins_is_cancelled",
        ),
    ),
    Mutant(
        name="patient-writes",
        breaks="a client that reads nothing is cut off",
        edits=(
            Edit(
                "gateway_web/client_socket.py",
                "wait(self._write_event, self.write_timeout,",
                "wait(self._write_event, None,",
            ),
        ),
        tests=(f"{CLIENT_SOCKET}::test_a_client_that_reads_nothing_is_cut_off",),
    ),
    Mutant(
        name="patient-reads",
        breaks="a request that drips in is not waited for",
        edits=(
            Edit(
                "gateway_web/client_socket.py",
                "self._until = time.monotonic() + self.read_timeout",
                "self._until = time.monotonic() + 3600",
            ),
        ),
        tests=(
            f"{CLIENT_SOCKET}::test_a_head_that_drips_in_is_not_waited_for",
            f"{CLIENT_SOCKET}::test_a_body_that_comes_later_than_its_head_is_bounded_too",
        ),
    ),
    Mutant(
        name="lists-unfiltered",
        breaks="a tool of which a caller may use nothing is to it as one that does not exist",
        edits=(
            Edit(
                "common/policy/view.py",
                "if self._rules.scope_of(self._kind, entry.id).shut is not None:",
                "if False:",
            ),
        ),
        tests=(f"{POLICY_DOORS}::test_a_hidden_tool_answers_a_legacy_client_like_none",),
    ),
    Mutant(
        name="rules-on-lists-only",
        breaks="a call is held against the rules, not only what is listed",
        edits=(
            Edit(
                "common/policy/judge.py",
                "decision = self.decide(caller, tool, capability)",
                "decision = ALLOWED",
            ),
        ),
        tests=(
            f"{POLICY_DOORS}::test_what_is_denied_is_denied_whether_it_exists_or_not",
            f"{POLICY_DOORS}::test_a_completion_is_judged_by_what_it_completes",
        ),
    ),
    Mutant(
        name="one-reading-allows",
        breaks="a permission needs every reading of a URI",
        edits=(
            Edit(
                "common/domain/policy_rules.py",
                "all(map(self.plain.matches, texts))",
                "any(map(self.plain.matches, texts))",
            ),
        ),
        tests=("tests/common/domain/test_uri_readings.py::test_a_permission_needs_every_reading",),
    ),
    Mutant(
        name="evaluator-fails-open",
        breaks="an evaluator that gives no answer denies",
        edits=(
            Edit(
                "common/policy/evaluation.py",
                "return Decision(allowed=False, ground=Ground.EVALUATOR_ERROR,",
                "return Decision(allowed=True, ground=Ground.EVALUATOR_ERROR,",
            ),
        ),
        tests=(
            "tests/common/policy/test_evaluation.py::test_a_fault_denies",
            "tests/common/policy/test_opa.py::test_whatever_goes_wrong_denies_in_time",
        ),
    ),
    Mutant(
        name="opa-cache-without-tenant",
        breaks="an evaluator's answer that is kept is that of one tenant",
        edits=(Edit("common/policy/opa.py", '"request_id": ""}', '"request_id": "", "tenant": ""}'),),
        tests=("tests/common/policy/test_opa.py::test_an_answer_holds_for_the_same_question_only",),
    ),
    Mutant(
        name="greedy-tenant",
        breaks="one tenant takes no more than half of an evaluator's room",
        edits=(
            Edit(
                "common/policy/bulkhead.py",
                "or self._running[tenant] >= self._most_of_one:",
                "or self._running[tenant] >= self._most:",
            ),
        ),
        tests=("tests/common/policy/test_bulkhead.py::test_one_tenant_has_half_of_the_room",),
    ),
    Mutant(
        name="unjudged-resumption",
        breaks="a call that is gone on with is judged as any other",
        edits=(
            Edit(
                "common/gateway/calling.py",
                "self.policy.authorise(caller, tool, method, params, left=self.clock.left(deadline))",
                "self.clock.left(deadline)",
            ),
        ),
        tests=("tests/web/ingress/test_evaluators.py::test_a_call_that_is_gone_on_with_is_judged_as_well",),
    ),
    Mutant(
        name="call-permit-kept",
        breaks="a call that ends gives its permits back",
        edits=(Edit(f"{LUA}/finish.lua", "    permits_back(ARGV[i + 9], id)\n", ""),),
        tests=(
            f"{PERMITS}::test_calls_beyond_the_bound_are_refused_until_one_ends",
            "tests/lua/test_limits_twin.py::test_pure_machines_and_scripts_are_equal",
        ),
    ),
    Mutant(
        name="call-permit-of-the-dead",
        breaks="the permits of a call that is answered for a dead node come back",
        edits=(
            Edit(
                f"{LUA}/node_rescue.lua",
                "  permits_back(head.permits, id)\n  tell('invocation_lost'",
                "  tell('invocation_lost'",
            ),
        ),
        tests=(f"{PERMITS}::TestWaysToEnd::test_a_dead_node_s_call_is_answered",),
    ),
    Mutant(
        name="permit-of-another",
        breaks="a second message of a call that runs leaves it its permit",
        edits=(
            Edit(
                f"{LUA}/fetch.lua",
                "head.permits ~= '0' and redis.call('EXISTS', 'celery-task-meta-' .. id) == 1",
                "head.permits ~= '0'",
            ),
        ),
        tests=(f"{PERMITS}::TestWaysToEnd::test_a_second_message_of_a_call_that_runs_leaves_it_its_permit",),
    ),
    Mutant(
        name="refused-and-paid",
        breaks="a request that one bucket refuses adds nothing to the others",
        edits=(
            Edit(
                f"{LUA}/rate_take.lua",
                "if wait > 0 then return {which, wait} end\nbuckets_fill(1, levels)",
                "buckets_fill(1, levels)\nif wait > 0 then return {which, wait} end",
            ),
        ),
        tests=("tests/lua/test_limits_twin.py::test_pure_machines_and_scripts_are_equal",),
    ),
    Mutant(
        name="clock-set-back",
        breaks="a clock that was set back adds nothing to a bucket",
        edits=(Edit(f"{LUA}/lib/buckets.lua", "math.max(0, now_us - at) * rate", "(now_us - at) * rate"),),
        tests=("tests/lua/test_limits_twin.py::test_a_clock_that_was_set_back_adds_nothing",),
    ),
    Mutant(
        name="expired-sessions-count",
        breaks="an MCP session that expired does not count",
        edits=(
            Edit(
                f"{LUA}/mcp_session_create.lua",
                "redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)\n",
                "",
            ),
        ),
        tests=(f"{LIMITS}::test_a_session_that_expired_does_not_count_and_one_that_is_used_does",),
    ),
    Mutant(
        name="untold-end",
        breaks="the end of a call is told to the journal in the step that stores its result",
        edits=(Edit(f"{LUA}/finish.lua", "if ARGV[i + 8] ~= '' then", "if false then"),),
        tests=(f"{STORE}/test_audit_scripts.py::test_a_call_is_told_from_its_decision_to_its_end",),
    ),
    Mutant(
        name="full-journal",
        breaks="a full journal refuses calls",
        edits=(Edit(f"{LUA}/admit.lua", "if journal_full(ARGV[7]) then", "if false then"),),
        tests=(f"{STORE}/test_audit_scripts.py::test_a_full_journal_refuses_calls",),
    ),
    Mutant(
        name="two-keepers",
        breaks="a keeper that slept through its lease moves nothing on",
        edits=(
            Edit(
                f"{LUA}/audit_chain_put.lua",
                "if redis.call('HGET', KEYS[1], 'keeper') ~= ARGV[1] then",
                "if false then",
            ),
        ),
        tests=(f"{AUDIT}/test_keeper.py::test_two_keepers_never_fork_the_chain",),
    ),
    Mutant(
        name="trimmed-too-far",
        breaks="nothing is trimmed that a sink has not got",
        edits=(
            Edit(
                f"{LUA}/audit_trim.lua",
                "if not place or tonumber(string.match(place, '^%d+')) < upto then",
                "if false then",
            ),
        ),
        tests=(f"{AUDIT}/test_keeper.py::test_nothing_is_trimmed_that_a_sink_has_not_got",),
    ),
    Mutant(
        name="torn-line",
        breaks="a torn last line of a sink's file is cut off before anything is written behind it",
        edits=(
            Edit(
                "common/audit/sinks/file.py",
                "            os.ftruncate(self._fd, end)\n            self._size = end\n",
                "            end = 0\n",
            ),
        ),
        tests=(f"{AUDIT}/test_file_sink.py::test_a_torn_last_line_is_cut_off",),
    ),
    Mutant(
        name="safe-too-early",
        breaks="a record is called safe when it was forced to the disk, and not before",
        edits=(
            Edit(
                "common/audit/sinks/file.py",
                "        return self._safe\n",
                "        return 0 if self.last is None else self.last.seq\n",
            ),
        ),
        tests=(f"{AUDIT}/test_file_sink.py::test_the_policy_says_when_it_is_forced_to_the_disk",),
    ),
    Mutant(
        name="half-an-answer",
        breaks="what a webhook did not answer with 2xx comes again",
        edits=(Edit("common/audit/sinks/webhook.py", "if not 200 <= status < 300:", "if status >= 500:"),),
        tests=(f"{AUDIT}/test_webhook_sink.py::test_what_is_not_2xx_was_not_taken",),
    ),
    Mutant(
        name="passed-over",
        breaks="another record under the same number is not passed over",
        edits=(Edit("common/audit/sinks/postgres.py", "if found[0] != len(records):", "if False:"),),
        tests=(
            f"{AUDIT}/test_postgres_sink.py::test_other_records_under_the_same_numbers_are_not_passed_over",
        ),
    ),
    Mutant(
        name="token-to-a-stranger",
        breaks="the token of the gateway that runs here is sent to no other address",
        edits=(Edit("gateway_web/cli/connection.py", " or base_url(running.endpoint) != base:", ":"),),
        tests=("tests/web/cli/test_connection.py::test_the_token_of_this_machine_is_for_its_own_gateway",),
    ),
    Mutant(
        name="admin-for-all",
        breaks="canalgate up switches the admin API on for this machine alone",
        edits=(Edit("gateway_web/cli/up_token.py", " or not _loopback(host):", ":"),),
        tests=("tests/web/cli/test_up_token.py::test_where_others_reach_the_listener_there_is_none",),
    ),
    Mutant(
        name="redirected-token",
        breaks="the command line follows no redirect with its token",
        edits=(
            Edit(
                "gateway_web/cli/http_control.py",
                "transport=transport,",
                "transport=transport, follow_redirects=True,",
            ),
        ),
        tests=("tests/web/cli/test_remote_errors.py::test_what_is_no_gateway_is_told_apart",),
    ),
    Mutant(
        name="any-version",
        breaks="a change at a version is refused at another one",
        edits=(
            Edit(
                "gateway_web/cli/control.py",
                """return {} if version is None else {"If-Match": f'"{version}"'}""",
                """return {} if version is None else {"If-Match": "*"}""",
            ),
        ),
        tests=("tests/web/cli/test_remote_errors.py::test_a_conflict_names_the_version_there_is",),
    ),
    Mutant(
        name="key-for-all",
        breaks="a client's file with a key in it is its owner's alone",
        edits=(Edit("gateway_web/cli/client_config.py", "0o600 if key.literal is not None else", ""),),
        tests=("tests/web/cli/test_client_config.py::test_the_key_itself_only_when_asked_for",),
    ),
    Mutant(
        name="silent-gap",
        breaks="a live consumer is told of what Redis no longer holds",
        edits=(
            Edit(
                "gateway_web/admin/audit.py",
                "not id_key(at) < id_key(anchor.id) < id_key(first)",
                "at != anchor.id",
            ),
        ),
        tests=("tests/web/admin/test_audit.py::test_what_redis_has_no_more_is_told_as_a_gap",),
    ),
    Mutant(
        name="another-judge",
        breaks="a credential that one resolver has refused is not another one's",
        edits=(
            Edit(
                "gateway_web/identity/doorkeeper.py",
                "            caller = ask(resolver, request)\n",
                "            try:\n                caller = ask(resolver, request)\n"
                "            except GatewayError:\n                continue\n",
            ),
        ),
        tests=(
            f"{IDENTITY}/test_resolvers.py::test_a_wrong_key_is_not_everybody",
            f"{IDENTITY}/test_resolvers.py::test_the_first_that_knows_the_kind_of_credential_decides",
        ),
    ),
    Mutant(
        name="headers-of-anybody",
        breaks="headers that say who calls are believed from trusted proxies only",
        edits=(
            Edit("gateway_web/identity/static.py", "if not request.from_proxy:", "if False:"),
            Edit("gateway_web/identity/certificates.py", "if not request.from_proxy:", "if False:"),
        ),
        tests=(
            f"{IDENTITY}/test_resolvers.py::test_headers_of_a_stranger_are_refused",
            f"{IDENTITY}/test_certificates.py::test_only_a_trusted_proxy_is_believed",
        ),
    ),
    Mutant(
        name="any-audience",
        breaks="a token is for one endpoint, also where it is remembered",
        edits=(
            Edit(
                "gateway_web/identity/tokens.py",
                'remembered = f"{place}\\n{token}"',
                "remembered = token",
            ),
        ),
        tests=(f"{IDENTITY}/test_tokens.py::test_a_token_may_be_for_one_endpoint",),
    ),
    Mutant(
        name="algorithm-of-the-token",
        breaks="the settings say how a token is checked, not the token",
        edits=(
            Edit(
                "gateway_web/identity/tokens.py",
                'if algorithm not in self._token.algorithms or "crit" in header or "b64" in header:',
                "if algorithm is None:",
            ),
        ),
        tests=(f"{IDENTITY}/test_tokens.py::test_a_bad_token_is_refused",),
    ),
    Mutant(
        name="remembered-though-revoked",
        breaks="a change of the keys has each looked up again",
        edits=(
            Edit(
                "gateway_web/identity/cache.py",
                "if known_at != generation or self._clock() >= until:",
                "if self._clock() >= until:",
            ),
        ),
        tests=(
            f"{IDENTITY}/test_api_keys.py::test_a_change_of_any_key_has_each_looked_up_again",
            f"{IDENTITY}/test_cache.py::test_another_generation_forgets",
        ),
    ),
    Mutant(
        name="streams-for-ever",
        breaks="an open stream ends with its credential",
        edits=(
            Edit(
                "gateway_web/identity/watches.py",
                "if not good and watch in self._all:",
                "if False:",
            ),
        ),
        tests=(f"{IDENTITY}/test_sessions.py::test_a_websocket_is_told_why",),
    ),
    Mutant(
        name="watch-under-another-tenant",
        breaks="a stream does not go on under credentials that are another tenant's by now",
        edits=(
            Edit(
                "gateway_web/identity/watches.py",
                "good = self._recognise(watch.facts).principal == watch.principal",
                "good = bool(self._recognise(watch.facts))",
            ),
        ),
        tests=("tests/web/test_reload.py::test_an_open_stream_ends_with_whom_it_was_opened_for",),
    ),
    Mutant(
        name="sessions-of-clients",
        breaks="a session is bound to the subject as well",
        edits=(
            Edit(
                "common/domain/invocation.py",
                "map(encode_part, (self.tenant, self.client, self.subject))",
                "map(encode_part, (self.tenant, self.client))",
            ),
        ),
        tests=(f"{IDENTITY}/test_sessions.py::test_a_session_is_its_principals_alone",),
    ),
    Mutant(
        name="address-not-judged",
        breaks="no connection leads where the rules of egress do not let it",
        edits=(
            Edit(
                "gateway_worker/egress/http_pool.py",
                "if (reason := judge(host, [parsed(entry[4][0]) for entry in found])) is not None:",
                "if (reason := judge(host, [])) is not None:",
            ),
        ),
        tests=(
            "tests/security/test_ssrf.py::test_nothing_is_connected_to",
            "tests/security/test_ssrf.py::test_each_new_connection_is_judged_anew",
        ),
    ),
    Mutant(
        name="resolved-twice",
        breaks="the address that was judged is the one that is dialled",
        edits=(
            Edit(
                "gateway_worker/egress/http_pool.py",
                "addresses = deque(_interleaved(found))",
                "addresses = deque(_interleaved(await _addresses(host, port)))",
            ),
        ),
        tests=("tests/security/test_ssrf.py::test_the_address_that_was_judged_is_the_one_that_is_dialled",),
    ),
    Mutant(
        name="session-past-the-guard",
        breaks="what speaks by requests is judged where it dials",
        edits=(
            Edit(
                "common/egress/session.py",
                "addresses = good_addresses(judge, connection.host, found)",
                "addresses = [str(entry[4][0]) for entry in found]",
            ),
        ),
        tests=(
            "tests/security/test_ssrf.py::test_nothing_is_connected_to",
            "tests/security/test_outbound.py::test_the_operator_s_own_addresses_are_judged",
        ),
    ),
    Mutant(
        name="opa-past-the-guard",
        breaks="nothing connects past the guard",
        edits=(Edit("common/policy/opa.py", "self._http = guarded_client(", "self._http = httpx.Client("),),
        tests=("tests/security/test_outbound.py::test_only_those_on_the_list_open_connections",),
    ),
    Mutant(
        name="listener-believes-headers",
        breaks="a certificate at our own listener is known by the connection, never by a header",
        edits=(
            Edit(
                "gateway_web/identity/certificates.py", 'if self._settings.form == "listener":', "if False:"
            ),
        ),
        tests=(
            "tests/web/identity/test_certificates.py::test_the_certificate_that_our_own_listener_was_shown",
        ),
    ),
    Mutant(
        name="refused-definition-untold",
        breaks="a definition that is refused at run time is in the journal",
        edits=(
            Edit(
                "common/registry/refused.py", "Journal(client, keys).record(event)", "Journal(client, keys)"
            ),
        ),
        tests=("tests/web/admin/test_tools.py::test_what_is_refused_is_audited_once",),
    ),
    Mutant(
        name="any-command-at-run-time",
        breaks="what is registered at run time passes the operator's rules, whoever brings it",
        edits=(Edit("common/registry/registry.py", "if origin is not Origin.FILE:", "if False:"),),
        tests=(
            "tests/security/test_cves.py::test_a_command_given_at_run_time_is_not_run",
            "tests/web/cli/test_tools.py::test_what_may_not_come_at_run_time_is_refused",
        ),
    ),
    Mutant(
        name="moved-and-trusted",
        breaks="a tool of the file whose place was changed at run time is the operator's no more",
        edits=(
            Edit(
                "common/registry/registry.py",
                "origin = Origin.CHANGED if moved else found.origin",
                "origin = found.origin",
            ),
        ),
        tests=(
            "tests/web/cli/test_tools.py::test_a_tool_of_the_file_whose_place_changes_is_the_operator_s_no_more",
        ),
    ),
    Mutant(
        name="any-name-will-do",
        breaks="the name of a TLS server is checked",
        edits=(
            Edit(
                "common/tls.py",
                "    context.minimum_version = MINIMUM[rules.min_version]",
                "    context.check_hostname = False\n    context.minimum_version = MINIMUM[rules.min_version]",
            ),
        ),
        tests=(
            "tests/worker/egress/test_http_tls_rules.py::test_another_name_may_be_asked_for",
            "tests/common/test_tls.py::test_certificates_are_required_names_checked_and_old_versions_refused",
        ),
    ),
    Mutant(
        name="unbounded-inside-tls",
        breaks="a client that reads nothing is cut off, also over TLS",
        edits=(
            Edit(
                "gateway_web/tls_client_socket.py",
                'self._write_timeout, "the client does not read"',
                'None, "the client does not read"',
            ),
        ),
        tests=("tests/web/test_listener_tls.py::test_a_client_that_reads_nothing_is_cut_off",),
    ),
    Mutant(
        name="certificate-without-end",
        breaks="a client certificate is worth nothing after its last second",
        edits=(
            Edit(
                "gateway_web/tls_client_socket.py",
                "if self.subject_until is not None and time.time() > self.subject_until:",
                "if False:",
            ),
        ),
        tests=(
            "tests/web/test_listener_tls.py::test_a_client_certificate_that_has_run_out_is_worth_nothing",
        ),
    ),
    Mutant(
        name="identity-without-its-proxies",
        breaks="whom to believe is taken over with who may say so",
        edits=(
            Edit(
                "common/settings/changes.py",
                "any(getattr(now.web, key) != getattr(wanted.web, key) for key in _BESIDE_IDENTITY)",
                "False",
            ),
        ),
        tests=("tests/common/settings/test_changes.py::test_identity_waits_with_whose_word_counts",),
    ),
    Mutant(
        name="figures-shown-twice",
        breaks="each process is on the page of metrics once",
        edits=(Edit("common/metrics/page.py", 'if other["process"] != own["process"])', "if True)"),),
        tests=("tests/common/metrics/test_page.py::test_its_own_figures_are_those_of_now",),
    ),
    Mutant(
        name="metrics-open-behind-a-proxy",
        breaks="what a proxy passes on needs the token of metrics",
        edits=(
            Edit(
                "gateway_web/metrics.py",
                "any(name in headers for name in FORWARDED) or not self._allowed(peer)",
                "not self._allowed(peer)",
            ),
        ),
        tests=("tests/web/test_metrics.py::test_who_may_read_it",),
    ),
    Mutant(
        name="any-method-is-a-label",
        breaks="what callers invent is no label of a metric",
        edits=(
            Edit(
                "gateway_web/ingress/account.py",
                "method = self.method if self.method in METHODS else OTHER",
                "method = self.method",
            ),
        ),
        tests=("tests/web/test_metrics.py::test_requests_and_refusals_are_counted",),
    ),
    Mutant(
        name="a-dead-worker-is-ready",
        breaks="a lease that has ended is no worker",
        edits=(
            Edit(
                "common/control/status.py", "any(worker.lease > 0 for worker in self.workers)", "self.workers"
            ),
        ),
        tests=("tests/web/cli/test_status.py::test_a_gateway_that_cannot_serve_has_an_exit_code_of_its_own",),
    ),
    Mutant(
        name="endless-leftovers",
        breaks="what is left of a refused request is taken up to a bound",
        edits=(
            Edit(
                "gateway_web/leftovers.py",
                "left, until = most, time.monotonic() + WITHIN",
                "left, until = 10**15, time.monotonic() + 3600",
            ),
        ),
        tests=("tests/e2e/test_raw_requests.py::test_an_upload_without_end_that_was_refused_is_cut_off",),
    ),
    Mutant(
        name="half-a-head",
        breaks="a head is taken as remembered only if all of it is the same",
        edits=(
            Edit(
                "gateway_web/request_heads.py",
                "end = data.find(self.behind, begin, begin + MOST_DIGITS + len(self.behind))",
                'end = data.find(b"\\r\\n", begin, begin + MOST_DIGITS + len(self.behind))',
            ),
        ),
        tests=("tests/web/test_request_heads.py::test_a_byte_that_differs_is_seen",),
    ),
    Mutant(
        name="deaf-monitor",
        breaks="task events are told to whoever listens",
        edits=(
            Edit(
                "gateway_worker/engine.py",
                "receivers.result() != 0",
                "receivers.result() == 0",
            ),
        ),
        tests=("tests/worker/test_engine.py::test_events_that_somebody_hears_are_told_in_their_order",),
    ),
    Mutant(
        name="one-message-ends-all",
        breaks="a message over which a worker fails ends no service",
        edits=(
            Edit(
                "gateway_worker/calls.py",
                "            self._take_up(taken)\n        except Exception:",
                "            self._take_up(taken)\n        except GatewayError:",
            ),
        ),
        tests=("tests/worker/test_call_desk.py::test_a_message_that_the_worker_fails_over_is_a_dead_letter",),
    ),
    Mutant(
        name="any-pool",
        breaks="a head with an impossible pool is given another",
        edits=(
            Edit(
                "common/store/lua/lib/pool.lua",
                "return size >= 1 and size <= MOST_OF_POOL",
                "return size <= MOST_OF_POOL",
            ),
        ),
        tests=("tests/worker/test_engine_faults.py::test_a_head_with_an_impossible_pool_gets_another_one",),
    ),
    Mutant(
        name="credentials-follow",
        breaks="secrets of providers do not follow a tool elsewhere",
        edits=(
            Edit(
                "common/settings/definitions.py",
                "or _whose(present) != _whose(wanted)",
                "or False",
            ),
        ),
        tests=("tests/web/admin/test_tool_secrets.py::test_they_are_not_sent_elsewhere",),
    ),
    Mutant(
        name="adopted-without-a-place",
        breaks="stock messages that wait for policy take the places of calls",
        edits=(
            Edit(
                "gateway_worker/call_desk.py",
                " - self._calls.aside.adopting",
                "",
            ),
        ),
        tests=(
            "tests/worker/test_call_desk.py::test_stock_messages_that_wait_for_policy_take_the_places_of_calls",
        ),
    ),
    Mutant(
        name="synced-is-synced",
        breaks="what could not be forced to the disk is written again",
        edits=(
            Edit(
                "common/audit/sinks/file.py",
                "        self.last = self._synced_last\n",
                "        pass\n",
            ),
        ),
        tests=(
            "tests/common/audit/test_file_sink.py::test_what_was_not_forced_to_the_disk_is_written_again",
        ),
    ),
)
