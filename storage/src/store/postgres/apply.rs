//! Writing batches: one upsert per table and share of the lanes, fed by columns, under the guards of the merge order. Every
//! statement changes a row only when what comes is ahead of what is stored, by the same fields in the same order as `hub::merge`;
//! so any batch may come any number of times. All statements of a transaction are sent before the first is answered, but for the
//! devices: those are read, united here and written, while the server works on the rest.

use futures_util::future::join_all;
use hub::device::Device;
use hub::window::Window;
use proto::{DeviceId, DeviceSeq, UserId, Version};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::columns::{Devices, History, Library, Preferences, Progress, uuid};
use super::failure::Failure;
use super::link::Redo;
use super::links::{BATCH_LINKS, Links};
use super::statement::{column, execute, id, int, number, odd, params, rows, run, text};
use super::thread::Kind;
use crate::journal::{JournalId, LaneCursors, Lsn};
use crate::lane::{Lane, lane_of};
use crate::store::batch::{DeviceChange, sorted};
use crate::store::{Applied, Batch, NewParked, Rows, StoreError};

const DEVICES_READ: &str = "
    SELECT user_id, device_id, epoch, removed, last_seen, last_seq, applied, revision
    FROM devices JOIN UNNEST($1::uuid[], $2::uuid[]) AS wanted (user_id, device_id) USING (user_id, device_id)";

const CURSOR: &str = "
    INSERT INTO journal_cursor AS stored (journal_id, lane, lsn)
    SELECT $1, * FROM UNNEST($2::smallint[], $3::bigint[])
    ON CONFLICT (journal_id, lane) DO UPDATE SET lsn = excluded.lsn WHERE excluded.lsn > stored.lsn";

const PARK: &str = "
    INSERT INTO parked_records (journal_id, lane, lsn, user_id, kind, version, payload, error, parked_at)
    SELECT $1, lane, lsn, user_id, kind, version, payload, error, $9
    FROM UNNEST($2::smallint[], $3::bigint[], $4::uuid[], $5::smallint[], $6::smallint[], $7::bytea[], $8::text[])
        AS parked (lane, lsn, user_id, kind, version, payload, error)
    ORDER BY lsn
    ON CONFLICT (journal_id, lsn) DO NOTHING";

/// Which connection a lane's transactions go through.
fn share_of(lane: Lane) -> usize {
    lane.index() % BATCH_LINKS
}

/// Stores a whole batch: the shares of the lanes at the same time, each in its own transaction.
pub(super) async fn batch(links: &Links, batch: &Batch) -> Result<Applied, StoreError> {
    let shares = join_all((0..BATCH_LINKS).map(|share| store_share(links, batch, share))).await;
    let mut applied = Applied::default();
    let mut failed = None;
    for share in shares {
        match share {
            Ok(one) => {
                applied.changed += one.changed;
                applied.behind += one.behind;
            }
            // That something is refused counts more than that something is away: it will still be refused.
            Err(error @ StoreError::Refused { .. }) => failed = Some(error),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(applied), Err)
}

async fn store_share(links: &Links, batch: &Batch, share: usize) -> Result<Applied, StoreError> {
    let tables = Tables::of(&batch.rows, |user| share_of(lane_of(user)) == share).map_err(Failure::into_error)?;
    let parked: Vec<_> = batch.parked.iter().filter(|record| share_of(record.lane) == share).collect();
    let (mut lanes, mut lsns) = (Vec::new(), Vec::new());
    for (lane, lsn) in batch.cursors.iter().filter(|(lane, _)| share_of(*lane) == share) {
        lanes.push(i16::from(lane.as_byte()));
        lsns.push(int(lsn.0).map_err(Failure::into_error)?);
    }
    let journal = Uuid::from_bytes(batch.journal.0);
    let end = async |client: &Client| {
        let reached: &[_] = params![journal, lanes, lsns];
        let (parked, guarded, cursor, committed) = tokio::join!(
            biased;
            park(client, batch.journal, &parked, batch.now_unix_ms),
            links.identity().guard(client, batch.journal),
            execute(client, CURSOR, reached),
            run(client, "COMMIT"),
        );
        parked.and(guarded).and(cursor.map(drop)).and(committed)
    };
    let link = links.batch(share);
    link.alone(Kind::Bulk, Redo::Harmless, async |client| {
        let mine = batch.cursors.iter().map(|(lane, _)| *lane).filter(|lane| share_of(*lane) == share);
        links.identity().stands(batch.journal, &batch.behind, mine)?;
        tables.store(client, Some(links.begin()), async |client| end(client).await).await.map_err(Failure::committing)
    })
    .await
    .inspect(|_| {
        let mine = batch.cursors.iter().filter(|(lane, _)| share_of(*lane) == share);
        links.identity().saw(batch.journal, mine.copied());
    })
}

/// Applies rows inside of a transaction that somebody else began and will commit.
pub(super) async fn in_transaction(client: &Client, tables: &Tables<'_>) -> Result<Applied, Failure> {
    tables.store(client, None, async |_| Ok(())).await
}

/// Applies a parked record's rows and takes it out.
pub(super) async fn parked(links: &Links, id: i64, rows: &Rows) -> Result<Applied, StoreError> {
    let tables = Tables::of(rows, |_| true).map_err(Failure::into_error)?;
    let work = async |client: &Client| {
        if !super::load::unpark(client, id).await? {
            return Err(StoreError::NotFound { what: "parked record" }.into());
        }
        in_transaction(client, &tables).await
    };
    links.write(Kind::Bulk, Redo::Never, work).await
}

async fn park(client: &Client, journal: JournalId, records: &[&NewParked], now_unix_ms: u64) -> Result<(), Failure> {
    if records.is_empty() {
        return Ok(());
    }
    let lsns = records.iter().map(|record| int(record.lsn.0)).collect::<Result<Vec<i64>, _>>()?;
    let lanes: Vec<i16> = records.iter().map(|record| record.lane.as_byte().into()).collect();
    let users: Vec<Option<Uuid>> = records.iter().map(|record| record.user.map(uuid)).collect();
    let kinds: Vec<i16> = records.iter().map(|record| record.kind.into()).collect();
    let versions: Vec<i16> = records.iter().map(|record| record.version.into()).collect();
    let payloads: Vec<&[u8]> = records.iter().map(|record| &record.payload[..]).collect();
    let errors: Vec<String> = records.iter().map(|record| text(&record.error)).collect();
    let (journal, now) = (Uuid::from_bytes(journal.0), int(now_unix_ms)?);
    let params = params![journal, lanes, lsns, users, kinds, versions, payloads, errors, now];
    execute(client, PARK, params).await.map(drop)
}

/// A batch's rows by table, as columns.
#[derive(Default)]
pub(super) struct Tables<'a> {
    progress: Progress,
    library: Library,
    history: History,
    preferences: Preferences,
    devices: Vec<((UserId, DeviceId), &'a DeviceChange)>,
}

impl<'a> Tables<'a> {
    /// The rows of the users that `wanted` names, in key order.
    pub(super) fn of(rows: &'a Rows, wanted: impl Fn(UserId) -> bool) -> Result<Self, Failure> {
        let mut tables = Self::default();
        for ((user, manga), row) in sorted(rows.progress.iter().filter(|((user, _), _)| wanted(*user))) {
            tables.progress.push(user, manga, row)?;
        }
        for ((user, manga), row) in sorted(rows.library.iter().filter(|((user, _), _)| wanted(*user))) {
            tables.library.push(user, manga, row)?;
        }
        for ((user, day, manga, node), (row, version)) in
            sorted(rows.history.iter().filter(|((user, ..), _)| wanted(*user)))
        {
            tables.history.push((user, manga, node), day, row, *version)?;
        }
        for (user, row) in sorted(rows.preferences.iter().filter(|(user, _)| wanted(**user))) {
            tables.preferences.push(user, row)?;
        }
        tables.devices = sorted(rows.devices.iter().filter(|((user, _), _)| wanted(*user)));
        Ok(tables)
    }

    fn count(&self) -> usize {
        let Self { progress, library, history, preferences, devices } = self;
        progress.len() + library.len() + history.len() + preferences.len() + devices.len()
    }

    /// Sends all tables in their fixed order (progress, library, history, preferences, devices) behind `begin`, and `end` behind
    /// them; the first error is the one that counts, because a failed statement fails all that follow.
    async fn store(
        &self,
        client: &Client,
        begin: Option<&str>,
        end: impl AsyncFnOnce(&Client) -> Result<(), Failure>,
    ) -> Result<Applied, Failure> {
        let begun = async {
            match begin {
                Some(begin) => run(client, begin).await,
                None => Ok(()),
            }
        };
        // Devices are read first, so that what they say comes back while the server works on the rest. What waits for it is
        // polled last: when there is nothing to read it must still be sent behind the other tables.
        let (tell, told) = futures_channel::oneshot::channel();
        let reading = async {
            let _ = tell.send(self.read_devices(client).await);
        };
        let devices = async {
            let united = self.unite_devices(told.await.expect("reading always tells")?)?;
            let (written, ended) = tokio::join!(biased; united.write(client), end(client));
            written.and_then(|written| ended.map(|()| written))
        };
        let (begun, (), progress, library, history, preferences, devices) = tokio::join!(
            biased;
            begun,
            reading,
            self.progress.write(client),
            self.library.write(client),
            self.history.write(client),
            self.preferences.write(client),
            devices,
        );
        let mut changed = 0;
        let mut failed = begun.err();
        for written in [progress, library, history, preferences, devices] {
            match written {
                Ok(rows) => changed += rows,
                Err(error) => failed = Some(worse(failed, error)),
            }
        }
        match failed {
            Some(failure) => Err(failure),
            None => Ok(Applied { changed, behind: (self.count() as u64).saturating_sub(changed) }),
        }
    }

    async fn read_devices(&self, client: &Client) -> Result<Vec<Row>, Failure> {
        if self.devices.is_empty() {
            return Ok(Vec::new());
        }
        let users: Vec<Uuid> = self.devices.iter().map(|((user, _), _)| uuid(*user)).collect();
        let devices: Vec<Uuid> = self.devices.iter().map(|((_, id), _)| Uuid::from_bytes(*id.as_bytes())).collect();
        rows(client, DEVICES_READ, params![users, devices]).await
    }

    fn unite_devices(&self, stored: Vec<Row>) -> Result<Devices, Failure> {
        let mut known = rustc_hash::FxHashMap::default();
        for row in &stored {
            let (user, device) = (UserId::from_bytes(id(row, 0)?), DeviceId::from_bytes(id(row, 1)?));
            // A stored row that cannot be read refuses what comes for its key, and nothing else.
            let read = device_row(device, row, 2).map_err(|failure| match failure {
                Failure::Final(StoreError::Corrupt { reason }) => StoreError::Refused { reason }.into(),
                other => other,
            })?;
            known.insert((user, device), (read, number::<u64>(row, 7)?));
        }
        let mut united = Devices::default();
        for ((user, id), change) in &self.devices {
            let (stored, revision) = known.remove(&(*user, *id)).map_or((None, 0), |(row, at)| (Some(row), at));
            if let Some(next) = change.united(*id, stored) {
                united.push(*user, &next, revision + 1)?;
            }
        }
        Ok(united)
    }
}

/// Of two failures of one transaction, the one that says why.
fn worse(known: Option<Failure>, next: Failure) -> Failure {
    match (known, next) {
        (None | Some(Failure::Aborted), next) => next,
        // A lost connection is what everything behind it hears; so is the reverse.
        (Some(known), _) => known,
    }
}

/// A device's row from five columns: epoch, removed, last_seen, last_seq, applied.
pub(super) fn device_row(id: DeviceId, row: &Row, at: usize) -> Result<Device, Failure> {
    let applied: Vec<u8> = column(row, at + 4)?;
    let window = Window::from_bytes(DeviceSeq(number(row, at + 3)?), &applied)
        .map_err(|error| odd(&format!("device {id}: {error}")))?;
    let (epoch, removed, seen) = (number(row, at)?, column(row, at + 1)?, number(row, at + 2)?);
    Ok(Device { id, epoch: Version(epoch), removed, seen: Version(seen), window })
}

/// Every journal with its cursors.
pub(super) async fn journals(client: &Client) -> Result<Vec<(JournalId, LaneCursors)>, Failure> {
    let sql = "SELECT journal_id, lane, lsn FROM journal_cursor ORDER BY journal_id, lane";
    let mut found: Vec<(JournalId, LaneCursors)> = Vec::new();
    for row in rows(client, sql, params![]).await? {
        let journal = JournalId(id(&row, 0)?);
        let lane = u8::try_from(column::<i16>(&row, 1)?).ok().and_then(Lane::from_byte);
        let lane = lane.ok_or_else(|| odd("journal_cursor has a lane that does not exist"))?;
        if found.last().is_none_or(|(known, _)| *known != journal) {
            found.push((journal, LaneCursors::START));
        }
        let (_, cursors) = found.last_mut().expect("just pushed");
        cursors.advance(lane, Lsn(number(&row, 2)?));
    }
    Ok(found)
}

/// Sets a journal's cursors, whatever they were.
pub(super) async fn adopt(links: &Links, journal: JournalId, cursors: LaneCursors) -> Result<(), StoreError> {
    let lanes: Vec<i16> = Lane::all().map(|lane| lane.as_byte().into()).collect();
    let lsns = Lane::all().map(|lane| int(cursors.get(lane).0)).collect::<Result<Vec<i64>, _>>();
    let (id, lsns) = (Uuid::from_bytes(journal.0), lsns.map_err(Failure::into_error)?);
    let sql =
        "INSERT INTO journal_cursor (journal_id, lane, lsn) SELECT $1, * FROM UNNEST($2::smallint[], $3::bigint[])
               ON CONFLICT (journal_id, lane) DO UPDATE SET lsn = excluded.lsn";
    let set = async |client: &Client| execute(client, sql, params![id, lanes, lsns]).await.map(drop);
    links.write(Kind::Bulk, Redo::Harmless, set).await?;
    links.identity().adopted(journal, cursors);
    Ok(())
}
