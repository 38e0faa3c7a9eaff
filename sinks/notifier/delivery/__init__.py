"""Delivery of notifications: the queue of each channel, and the transport to Telegram, Discord, webhooks and e-mail."""
