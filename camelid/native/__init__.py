"""A decoder in plain C: built where a C compiler is found, reached through ctypes, with the same bits in any company."""
