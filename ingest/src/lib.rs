//! Upstream clients (MangaDex, AniList) and their sync jobs. It owns nothing yet: the room is here so that the jobs have
//! one place to come to, and so that the dependency direction (ingest calls the engine's commands) is already fixed.
use engine as _;
