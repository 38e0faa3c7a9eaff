"""Tells people: signals, trades, faults in the data, refused records and unwell services, to Telegram, Discord, webhooks, e-mail and whatever apprise knows.

``events`` says what is news, ``policy`` who hears of it and when, ``templates`` how it reads, ``channel`` sends it, ``service`` ties them to Kafka.
"""
