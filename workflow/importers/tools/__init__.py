"""One small reader per tool."""
