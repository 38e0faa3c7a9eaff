"""The local stack: a real Kafka broker and a real PostgreSQL in one folder, for machines without containers (DESIGN 5)."""

from deploy.stack.errors import StackError
from deploy.stack.stack import DEFAULT_DIR, PartStatus, Stack

__all__ = ["DEFAULT_DIR", "PartStatus", "Stack", "StackError"]
