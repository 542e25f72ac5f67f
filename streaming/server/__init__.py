"""Many clients, one engine: WebSocket, HTTP, Wyoming and a browser page (the extra `serve`)."""
