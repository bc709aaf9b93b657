"""The model as EasyDeL holds it; everything that touches EasyDeL but its trainer lives here."""
