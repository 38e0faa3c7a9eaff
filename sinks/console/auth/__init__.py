"""Who may do what in the console: users, passwords, sessions, roles, invitations, audit log."""
