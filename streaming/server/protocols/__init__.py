"""The protocols that the server speaks: vosk-server's WebSocket, OpenAI's HTTP API, Wyoming."""
