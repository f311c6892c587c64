//! A connection to the database that knows how what sessions say is encrypted, and what time it is.

use std::ops::{Deref, DerefMut};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnection, SqliteQueryResult, SqliteRow, SqliteStatement, SqliteTypeInfo};
use sqlx::{Either, Execute, Executor, SqlStr, Sqlite, Transaction};

use crate::cipher::Cipher;
use crate::clock::Clock;

/// What the queries run on: a reader's, or a [`crate::Tx`]'s.
#[derive(Debug)]
pub struct Connection {
    inner: Inner,
    cipher: Cipher,
    clock: Clock,
}

#[derive(Debug)]
enum Inner {
    Reading(PoolConnection<Sqlite>),
    Writing(Transaction<'static, Sqlite>),
}

impl Connection {
    pub(crate) fn reading(inner: PoolConnection<Sqlite>, cipher: Cipher, clock: Clock) -> Self {
        Self { inner: Inner::Reading(inner), cipher, clock }
    }

    pub(crate) fn writing(inner: Transaction<'static, Sqlite>, cipher: Cipher, clock: Clock) -> Self {
        Self { inner: Inner::Writing(inner), cipher, clock }
    }

    /// How what sessions say is encrypted.
    pub(crate) fn cipher(&self) -> Cipher {
        self.cipher.clone()
    }

    /// What time it is.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Makes what was written durable; a reader has written nothing.
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self.inner {
            Inner::Reading(_) => Ok(()),
            Inner::Writing(inner) => inner.commit().await,
        }
    }
}

impl Deref for Connection {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        match &self.inner {
            Inner::Reading(inner) => inner,
            Inner::Writing(inner) => inner,
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match &mut self.inner {
            Inner::Reading(inner) => inner,
            Inner::Writing(inner) => inner,
        }
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Sqlite;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<SqliteQueryResult, SqliteRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        (**self).fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<SqliteRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        (**self).fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, Result<SqliteStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        (**self).prepare_with(sql, parameters)
    }
}
