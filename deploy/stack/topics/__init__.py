"""Topics on a cluster: create and delete them, read their records, and see how far their readers are."""

from deploy.stack.topics.create import create_topics, delete_topics, led

__all__ = ["create_topics", "delete_topics", "led"]
