"""Text that training and evaluation share."""
