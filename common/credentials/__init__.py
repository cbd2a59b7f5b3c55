"""What is done with credentials without asking anybody: put into place, and orders to forget them."""
