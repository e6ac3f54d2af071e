//! Deciding a command.

use crate::command::{Command, Context};
use crate::outcome::Outcome;
use crate::user::UserState;

/// Decides `command` on `state`.
pub fn apply(state: &mut UserState, command: &Command, context: &mut Context<'_>) -> Outcome {
    let _ = (state, command, context);
    unimplemented!("follows")
}
