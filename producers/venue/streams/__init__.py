"""Maps websocket frames to records and repairs gaps."""
