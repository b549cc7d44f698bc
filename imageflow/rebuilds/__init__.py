"""From events to builds."""
