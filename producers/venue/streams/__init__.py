"""From websocket frames to records, with repair of gaps."""
