//! What the cache asks of Redis: the scripts, a user's copy, and the pipeline of a write.

use std::time::Duration;

use fred::clients::{Client, Pipeline, WithOptions};
use fred::interfaces::{ClientLike, HashesInterface, KeysInterface};
use fred::types::Value;
use fred::types::config::Config;
use hub::load::StoredUser;
use proto::{NodeId, UserId};

use super::HotConfig;
use super::layout::{self, Mark};
use super::pending::{Changes, Series, Writes};
use crate::redis::{Circuit, Connection, Failure, Reconnects, at_once, command, failure, sha1, within};

const USER_SCRIPT: &str = include_str!("user.lua");
const PROGRESS_SCRIPT: &str = include_str!("progress.lua");

/// A write has more to do than a read: this many times its time-out.
const WRITE_PATIENCE: u32 = 10;

/// What a mark must say for this node to trust a copy, and what it puts there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vouching {
    pub(super) node: NodeId,
    pub(super) mark: Mark,
}

#[derive(Clone)]
pub(super) struct Redis {
    connection: Connection,
    user_sha: String,
    progress_sha: String,
    ttl_s: i64,
    timeout: Duration,
}

impl Redis {
    /// Begins connecting, again and again until it is dropped. Needs a Tokio runtime.
    pub(super) fn start(config: Config, hot: &HotConfig) -> Self {
        Self {
            connection: Connection::start(config),
            user_sha: sha1(USER_SCRIPT),
            progress_sha: sha1(PROGRESS_SCRIPT),
            ttl_s: i64::try_from(hot.ttl.as_secs().max(1)).unwrap_or(i64::MAX),
            timeout: hot.timeout,
        }
    }

    pub(super) fn reconnects(&self) -> Reconnects {
        Reconnects::of(&self.connection)
    }

    pub(super) fn circuit(&self) -> Circuit {
        Circuit::new(&self.connection, "users are loaded from the store alone")
    }

    /// Whether it answers; loads the scripts, which it may have lost.
    pub(super) async fn probe(&self) -> Result<(), Failure> {
        self.connection.load_scripts(self.timeout * WRITE_PATIENCE, &[USER_SCRIPT, PROGRESS_SCRIPT]).await
    }

    /// A user's copy: the rows, and this node's mark. `None` when there is none.
    pub(super) async fn load(&self, user: UserId, node: NodeId) -> Result<Option<(StoredUser, Option<Mark>)>, Failure> {
        let copy: Value = within(self.timeout, self.connection.client.hgetall(layout::user_key(user))).await?;
        let fields = copy.into_array();
        if fields.is_empty() {
            return Ok(None);
        }
        let mut texts = Vec::with_capacity(fields.len());
        for field in &fields {
            texts.push(field.as_bytes_str().ok_or(Failure::Odd)?);
        }
        let (pairs, []) = texts.as_chunks::<2>() else { return Err(Failure::Odd) };
        let pairs = pairs.iter().map(|[field, text]| (&**field, &**text));
        layout::parse_user(user, node, pairs).map(Some).ok_or(Failure::Odd)
    }

    /// Writes what has gathered, in one pipeline.
    pub(super) async fn write(&self, writes: &Writes, vouching: Vouching) -> Result<(), Failure> {
        let pipeline = self.connection.client.pipeline().with_options(&at_once());
        self.queue(&pipeline, writes, vouching).await.map_err(|error| failure(&error))?;
        let answers = within(self.timeout * WRITE_PATIENCE, async { Ok(pipeline.try_all::<Value>().await) }).await?;
        let mut refused: Option<(String, usize)> = None;
        for answer in answers {
            let Err(error) = answer else { continue };
            match failure(&error) {
                Failure::Refused { text, .. } => refused.get_or_insert((text, 0)).1 += 1,
                failure => return Err(failure),
            }
        }
        refused.map_or(Ok(()), |(text, commands)| Err(Failure::Refused { text, commands }))
    }

    /// Puts the commands into the pipeline; sends nothing.
    async fn queue(
        &self,
        pipeline: &WithOptions<Pipeline<Client>>,
        writes: &Writes,
        vouching: Vouching,
    ) -> Result<(), fred::error::Error> {
        for (user, changes) in &writes.users {
            let key = layout::user_key(*user);
            if changes.forget {
                let _: () = pipeline.del(key.as_str()).await?;
            } else {
                let _: () = pipeline.custom(command("EVALSHA"), self.user_arguments(key, changes, vouching)).await?;
            }
            for (manga, series) in &changes.series {
                let key = layout::progress_key(*user, *manga);
                let _: () = pipeline.custom(command("EVALSHA"), self.progress_arguments(key, series)).await?;
            }
        }
        for (user, series) in &writes.touches {
            let _: () = pipeline.expire(layout::user_key(*user), self.ttl_s, None).await?;
            for manga in series {
                let _: () = pipeline.expire(layout::progress_key(*user, *manga), self.ttl_s, None).await?;
            }
        }
        Ok(())
    }

    fn user_arguments(&self, key: String, changes: &Changes, vouching: Vouching) -> Vec<Value> {
        let mut arguments = Vec::with_capacity(6 + 4 * changes.series.len());
        arguments.extend([Value::from(self.user_sha.as_str()), 1.into(), key.into(), self.ttl_s.into()]);
        match changes.complete {
            true => arguments.extend([vouching.node.0.to_string().into(), vouching.mark.to_text().into()]),
            false => arguments.extend([Value::from(""), "".into()]),
        }
        for (manga, series) in &changes.series {
            if let Some(row) = &series.progress {
                arguments.extend([format!("p{manga}").into(), layout::progress_text(row).into()]);
            }
            if let Some(row) = &series.library {
                arguments.extend([format!("l{manga}").into(), layout::library_text(row).into()]);
            }
        }
        arguments
    }

    fn progress_arguments(&self, key: String, series: &Series) -> Vec<Value> {
        let mut arguments: Vec<Value> = Vec::with_capacity(14);
        arguments.extend([Value::from(self.progress_sha.as_str()), 1.into(), key.into(), self.ttl_s.into()]);
        match &series.progress {
            Some(row) => {
                let page = row.page.map(|page| page.0.to_string()).unwrap_or_default();
                arguments.extend([
                    row.key.generation.0.to_string().into(),
                    row.key.chapter.to_string().into(),
                    row.key.version.0.to_string().into(),
                    row.key.node.0.to_string().into(),
                    if row.deleted { "1" } else { "0" }.into(),
                    page.into(),
                    layout::rfc3339(row.key.version.unix_ms()).into(),
                ]);
            }
            None => arguments.extend(std::iter::repeat_n(Value::from(""), 7)),
        }
        match &series.library {
            Some(row) => {
                let status = if row.deleted { "" } else { row.status.as_str() };
                arguments.extend([
                    row.version.0.to_string().into(),
                    row.node.0.to_string().into(),
                    Value::from(status),
                ]);
            }
            None => arguments.extend(std::iter::repeat_n(Value::from(""), 3)),
        }
        arguments
    }

    /// Says goodbye, if that is quick.
    pub(super) async fn close(&self) {
        self.connection.close(self.timeout).await;
    }
}
