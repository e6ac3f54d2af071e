//! The data folder: made, locked, and told apart from every other one.
