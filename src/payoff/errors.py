"""Errors that are written for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """Something in the user's input, options or files is wrong.

    The message says what is wrong, where (file, column, row, option) and what to do about it.
    The command line prints it without a traceback and exits with code 2; from Python it is an
    ordinary exception.
    """
