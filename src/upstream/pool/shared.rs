//! Connections to HTTP/2 upstreams, which many requests share.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use tokio::{sync::Notify, time::Instant};

use super::{Http1, Pools};
use crate::{
    error::Result,
    http::h2::client::{Http2, Slot},
    tls::alpn::Offer,
    upstream::{Endpoint, EndpointId, Upstream, opening::Opening},
    worker::Conn,
};

impl Pools {
    /// A place for one stream over HTTP/2; where the best that an endpoint speaks may be HTTP/1.1, a
    /// connection of that.
    ///
    /// # Errors
    /// Nothing has been sent in any of them.
    pub async fn http2(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        now: Instant,
        client: &Conn,
        offer: Offer,
    ) -> Result<Way> {
        if offer == Offer::Best && endpoint.only_http1.load(Ordering::Relaxed) {
            let conn = self.http1(upstream, endpoint, now, client).await?;
            return Ok(Way::Connection(conn));
        }
        if upstream.config.proxy_protocol.is_none()
            && let Some(slot) = self.shared(upstream, endpoint)
        {
            upstream.metrics.pool_hit(self.worker);
            return Ok(Way::Stream(slot));
        }
        // Boxed, as for HTTP/1.1.
        Box::pin(self.missing_http2(upstream, endpoint, client, offer)).await
    }

    /// A place on a connection that is open and has one.
    fn shared(self: &Rc<Self>, upstream: &Arc<Upstream>, endpoint: &Endpoint) -> Option<Slot> {
        let mut pools = self.endpoints.borrow_mut();
        let pool = self.pool(&mut pools, upstream, endpoint);
        let conn = pool.shared.iter().find(|conn| conn.has_room())?;
        Some(Slot::take(conn))
    }

    /// Waits for a place, or opens a connection.
    async fn missing_http2(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        client: &Conn,
        offer: Offer,
    ) -> Result<Way> {
        if upstream.config.proxy_protocol.is_some() {
            // Such a connection speaks for one client only: there is nothing to share.
            upstream.metrics.pool_miss(self.worker);
            let permit = self.permit(upstream).await?;
            let room = Rc::default();
            let (opened, lease) = self.open(upstream, endpoint, permit, client, offer).await?;
            if opened.is_http1(offer) {
                return Ok(Way::Connection(self.http1_over(opened, lease, endpoint)));
            }
            let conn = Http2::open(opened, lease, room, Instant::now());
            return Ok(Way::Stream(Slot::take(&conn)));
        }
        loop {
            if offer == Offer::Best && endpoint.only_http1.load(Ordering::Relaxed) {
                // The one who opened has found out.
                let conn = self.http1(upstream, endpoint, Instant::now(), client);
                return conn.await.map(Way::Connection);
            }
            let (opened, room) = match self.turn(upstream, endpoint) {
                Turn::Take(slot) => {
                    upstream.metrics.pool_hit(self.worker);
                    return Ok(Way::Stream(slot));
                }
                Turn::Wait(opening, room) => {
                    let _pending = self.pending(upstream)?;
                    let _counted = upstream.metrics.waiting(self.worker);
                    tokio::select! {
                        biased;
                        opened = opening.ended() => opened?,
                        () = room.notified() => {}
                    }
                    continue;
                }
                Turn::Open(opened, room) => (opened, room),
            };
            let permit = match upstream.limits.try_connection() {
                Some(permit) => permit,
                None => tokio::select! {
                    biased;
                    permit = self.permit(upstream) => permit?,
                    // At the limit a stream that ends is as good as a connection.
                    () = room.notified() => continue,
                },
            };
            upstream.metrics.pool_miss(self.worker);
            let (fresh, lease) = self
                .open(upstream, endpoint, permit, client, offer)
                .await
                .inspect_err(|error| opened.opening.fail(error))?;
            if fresh.is_http1(offer) {
                endpoint.only_http1.store(true, Ordering::Relaxed);
                return Ok(Way::Connection(self.http1_over(fresh, lease, endpoint)));
            }
            let conn = Http2::open(fresh, lease, room, Instant::now());
            let slot = Slot::take(&conn);
            let mut pools = self.endpoints.borrow_mut();
            self.pool(&mut pools, upstream, endpoint).shared.push(conn);
            // `opened` looks into the pools as it goes.
            drop(pools);
            return Ok(Way::Stream(slot));
        }
    }

    /// What a request for a place on a shared connection has to do.
    fn turn<'p>(self: &'p Rc<Self>, upstream: &Arc<Upstream>, endpoint: &Endpoint) -> Turn<'p> {
        if let Some(slot) = self.shared(upstream, endpoint) {
            return Turn::Take(slot);
        }
        let mut pools = self.endpoints.borrow_mut();
        let pool = self.pool(&mut pools, upstream, endpoint);
        let room = Rc::clone(&pool.room);
        if let Some(opening) = &pool.opening {
            return Turn::Wait(Rc::clone(opening), room);
        }
        let opening = Rc::<Opening>::default();
        pool.opening = Some(Rc::clone(&opening));
        let opened = Opened {
            pools: self,
            endpoint: endpoint.id,
            opening,
        };
        Turn::Open(opened, room)
    }
}

/// What carries one exchange.
pub enum Way {
    Stream(Slot),
    Connection(Box<Http1>),
}

enum Turn<'p> {
    Take(Slot),
    /// Until another one has opened a connection, or a stream has ended.
    Wait(Rc<Opening>, Rc<Notify>),
    Open(Opened<'p>, Rc<Notify>),
}

/// Ends an opening, also when its request is dropped: the others must not wait for ever.
struct Opened<'a> {
    pools: &'a Pools,
    endpoint: EndpointId,
    opening: Rc<Opening>,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pools.endpoints.borrow_mut().get_mut(&self.endpoint) {
            pool.opening = None;
        }
        self.opening.end();
    }
}
