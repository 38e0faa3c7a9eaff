"""Messages to people about signals, trades, data faults, dead letters and failing services: Telegram, Discord, webhooks, e-mail and other apprise services.

``rules`` decides what is news and who receives it, ``delivery`` renders and sends it, and ``service`` connects both to Kafka.
"""
