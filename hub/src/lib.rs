//! The rules of the product, pure: a user's state, the commands that change it, and how two versions of it merge. Time, facts
//! about a series and keyed tags are handed in; nothing here reads a clock, touches a disk or a socket, or draws a random number.
//!
//! Life of a command: [`apply()`] looks at a [`UserState`] and decides; what it decides is a [`Record`] (a result, never an
//! increment), and the state changes only by merging that record. Recovery merges the same records again, so replaying a
//! journal, in whole or twice, ends where applying ended.

pub mod access;
pub mod account;
pub mod apply;
pub mod clock;
pub mod command;
pub mod device;
pub mod history;
pub mod library;
pub mod load;
pub mod merge;
pub mod outcome;
pub mod preferences;
pub mod progress;
pub mod record;
pub mod token;
pub mod user;
pub mod window;

pub use access::{Role, Scope, ScopeSet};
pub use account::{Email, Password, SignInName, Username};
pub use apply::apply;
pub use clock::Hlc;
pub use command::{Command, Context, SeriesFacts, SetProgress};
pub use device::{Device, DeviceStamp, DeviceView};
pub use history::{HistoryRow, LocalDay};
pub use library::{LibraryRow, LibraryView};
pub use load::StoredUser;
pub use outcome::{Change, Conflict, Event, Outcome, ProgressEvent, Proposal, Reject};
pub use preferences::{Preferences, Strategy, UtcOffset};
pub use progress::{ProgressRow, ProgressView};
pub use record::{DeviceRecord, LibraryRecord, PreferencesRecord, ProgressRecord, Record};
pub use user::UserState;
pub use window::Window;
