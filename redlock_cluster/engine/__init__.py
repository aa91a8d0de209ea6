"""What does: connections, servers and rounds on the wire. Clock, dialer and entropy are passed in (`ports`)."""
