"""Servers that tests start or speak to: databases, a broker, a cloud's services, and a proxy that injects faults."""
