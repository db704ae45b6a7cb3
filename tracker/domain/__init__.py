"""What the gateway knows and decides: no Trio, no sockets, no clock."""
