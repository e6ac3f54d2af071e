//! What an account is made of, parsed once at the door and then trusted: names, addresses, passwords, roles and scopes. Folded
//! forms decide uniqueness. A password never shows in debug output.
