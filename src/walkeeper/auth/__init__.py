"""Who may do what: tokens, the keys that vouch for them, and the permissions they carry."""
