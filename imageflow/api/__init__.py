"""The HTTP interface; its OpenAPI document is authoritative."""
