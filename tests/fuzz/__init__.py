"""Every parser that reads bytes from outside, fed with what nobody would send."""
