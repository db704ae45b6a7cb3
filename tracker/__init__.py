"""A live gateway for GPS fleets: MQTT in, WebSocket, SSE and statistics out."""
