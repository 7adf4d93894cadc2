"""HTTP: the listener, the guarded protocol, the lean inference route and the FastAPI pages."""
