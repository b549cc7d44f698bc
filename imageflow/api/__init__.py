"""The HTTP interface; its OpenAPI document is the truth about it."""
