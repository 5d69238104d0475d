"""Deploys: revisions as transactions, from admission to last-good or back, and what people say of them.

``deploys`` is the state machine of one app; ``aiming`` says what the host is to become meanwhile.
"""
