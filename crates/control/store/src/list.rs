//! Reading a list page by page: where to start, how many, and which.

use postern_model::Timestamp;
use postern_model::page::{Cursor, Direction, Order, Page};
use sqlx::sqlite::SqliteRow;

use crate::{Connection, StoreError};

/// Bounds on an instant, each optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Later than.
    pub gt: Option<Timestamp>,
    /// Not earlier than.
    pub gte: Option<Timestamp>,
    /// Earlier than.
    pub lt: Option<Timestamp>,
    /// Not later than.
    pub lte: Option<Timestamp>,
}

impl Range {
    /// The same bounds as the smallest and largest allowed number of microseconds, both included.
    pub fn micros(&self) -> (i64, i64) {
        let least = [self.gt.map(|at| at.as_microsecond().saturating_add(1)), self.gte.map(|at| at.as_microsecond())];
        let most = [self.lt.map(|at| at.as_microsecond().saturating_sub(1)), self.lte.map(|at| at.as_microsecond())];
        (least.into_iter().flatten().max().unwrap_or(i64::MIN), most.into_iter().flatten().min().unwrap_or(i64::MAX))
    }
}

/// The statement for [`ListQuery::newest`]: a page of a table's rows, newest first.
macro_rules! newest {
    ($table:literal, $owner:literal) => {
        crate::list::newest!($table, $owner, "")
    };
    ($table:literal, $owner:literal, $and:literal) => {
        concat!(
            "SELECT * FROM ",
            $table,
            " WHERE ",
            $owner,
            " = ?1 AND (created_at < ?2 OR (created_at = ?2 AND id < ?3)) ",
            $and,
            " ORDER BY created_at DESC, id DESC LIMIT ?4"
        )
    };
}
pub(crate) use newest;

/// The statement for [`ListQuery::newest_active`]: the same, and archived ones where they are wanted.
macro_rules! newest_active {
    ($table:literal, $owner:literal) => {
        crate::list::newest!($table, $owner, "AND (?5 OR archived_at IS NULL)")
    };
}
pub(crate) use newest_active;

/// One page of a list that is read newest first.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// How many items at most.
    pub limit: u32,
    /// Where the page before this one ended.
    pub after: Option<Cursor>,
    /// When the items were made.
    pub created_at: Range,
    /// Archived ones too.
    pub include_archived: bool,
}

impl ListQuery {
    /// The position to read strictly below, in (key, id) order.
    pub(crate) fn below(&self) -> (i64, &str) {
        self.after.as_ref().map_or((i64::MAX, ""), |cursor| (cursor.key, cursor.id.as_str()))
    }

    /// A page's rows and one more, of those whose owner is `of`.
    pub(crate) async fn newest(
        &self,
        connection: &mut Connection,
        statement: &'static str,
        of: &str,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let (key, id) = self.below();
        let query = sqlx::query(statement).bind(of).bind(key).bind(id).bind(self.limit_plus_one());
        Ok(query.fetch_all(connection).await?)
    }

    /// The same, without archived ones unless they are wanted.
    pub(crate) async fn newest_active(
        &self,
        connection: &mut Connection,
        statement: &'static str,
        of: &str,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let (key, id) = self.below();
        let query = sqlx::query(statement).bind(of).bind(key).bind(id).bind(self.limit_plus_one());
        Ok(query.bind(self.include_archived).fetch_all(connection).await?)
    }

    /// One more than a page holds, which tells whether another page follows.
    pub(crate) fn limit_plus_one(&self) -> i64 {
        i64::from(self.limit) + 1
    }
}

/// Cuts what was read, newest first, to a page; the item too many becomes the cursor of the next page.
pub fn page<T>(items: Vec<T>, limit: u32, list: &str, position: impl Fn(&T) -> (i64, String)) -> Page<T> {
    page_in(Order::Desc, items, limit, list, position)
}

/// The same in either order.
pub fn page_in<T>(
    order: Order,
    mut items: Vec<T>,
    limit: u32,
    list: &str,
    position: impl Fn(&T) -> (i64, String),
) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_page = items.last().filter(|_| more).map(|last| {
        let (key, id) = position(last);
        let list = list.to_owned();
        Cursor { list, order, direction: Direction::Next, key, id, filters: String::new() }.encode()
    });
    Page { data: items, next_page }
}
