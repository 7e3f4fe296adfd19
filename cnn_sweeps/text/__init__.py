"""What people read: names, passwords and commands, made safe to show."""
