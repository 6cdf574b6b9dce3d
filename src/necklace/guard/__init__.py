"""What comes from elsewhere is data: it calls nothing, names no secret, deletes nothing of others, and is shown as text."""
