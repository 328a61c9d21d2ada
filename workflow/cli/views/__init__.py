"""What commands print for people: tables, lists and lines."""
