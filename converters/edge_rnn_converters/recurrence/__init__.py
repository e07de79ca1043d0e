"""Recurrent cells that a framework took apart into primitive operators, put together again."""
