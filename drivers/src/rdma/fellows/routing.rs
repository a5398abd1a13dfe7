//! Which core takes what: requests by turns, to the first that has room; ports, when the core that heard them leaves.

use super::super::transport::{Named, Rdma, token_of};
use super::super::verbs::cm::{Id, Kind};
use super::{Fellow, Parcel, Request, Turn};
use crate::transport::Handle;

/// A socket that nobody has.
const NOBODY: Handle = Handle { index: u32::MAX, generation: u32::MAX };

impl Rdma {
    /// Somebody wants a connection of a listener of this core's, or of one that it hears for.
    pub(in super::super) fn on_request(&mut self, request: Request) {
        let turn = match (&self.fellow, request.id.local_addr()) {
            (Some(fellow), Some(local)) => fellow.turn(local, None),
            _ => None,
        };
        self.pass(request, turn);
    }

    /// Gives a request to the first core that has room, beginning with the one whose turn it is; when none has, the last one asked says
    /// so.
    fn pass(&mut self, mut request: Request, mut turn: Option<Turn>) {
        while let (Some(Turn { place, of }), Some(fellow)) = (turn, &self.fellow) {
            let is_last = request.refusals + 1 >= of;
            if place.core == fellow.index() {
                request.to = place.socket;
                if is_last || self.has_room(place.socket) {
                    break;
                }
            } else {
                let handed = Request { to: place.socket, ..request };
                match fellow.hand_on(place.core, handed) {
                    Ok(()) => return,
                    // That core is ending.
                    Err(back) => request = Request { to: NOBODY, ..back },
                }
                if is_last {
                    break;
                }
            }
            request.refusals += 1;
            let after = Some(place.core);
            turn = request.id.local_addr().and_then(|local| fellow.turn(local, after));
        }
        self.take_request(request);
    }

    /// Takes what other cores have left for this one.
    #[cold]
    pub(in super::super) fn take_parcels(&mut self) {
        for parcel in self.fellow.as_ref().map_or_else(Vec::new, Fellow::take) {
            match parcel {
                Parcel::Request(mut request) => match request.id.move_to(&self.adapter.channel) {
                    Ok(()) => {
                        let turn = match (&self.fellow, request.id.local_addr()) {
                            (Some(fellow), Some(local)) => Some(fellow.own_turn(local, request.to)),
                            _ => None,
                        };
                        self.pass(request, turn);
                    }
                    // Its peer hears of that as the identifier is dropped.
                    Err(_) => self.adapter.counts.attempt_fails += 1,
                },
                Parcel::Ears { kind, to, ids } => self.take_ears(kind, to, ids),
            }
        }
    }

    /// What hears a port is this core's now. Who leaves takes such parcels along, so the socket is there.
    fn take_ears(&mut self, kind: Kind, to: Handle, ids: Vec<Id>) {
        let what = match kind {
            Kind::Connections => Named::Listener,
            Kind::Datagrams => Named::Socket,
        };
        let mut moved = Vec::with_capacity(ids.len());
        for mut id in ids {
            if id.move_to(&self.adapter.channel).is_ok() {
                id.set_token(token_of(what, to));
                moved.push(id);
            }
        }
        match kind {
            Kind::Connections => {
                if let Some(listener) = self.listeners.get_mut(to) {
                    listener.ids.extend(moved);
                }
            }
            Kind::Datagrams => self.datagrams.take_ears(to, moved),
        }
    }

    /// This core serves nothing any more: what it hears, others hear from now on, and who was on the way here goes on to them.
    pub(in super::super) fn leave_fellows(&mut self) {
        let Some(fellow) = &self.fellow else { return };
        for listener in self.listeners.iter_mut() {
            let ids = std::mem::take(&mut listener.ids);
            fellow.leave(Kind::Connections, listener.address, listener.handle, ids);
        }
        self.datagrams.leave(fellow);
        for parcel in fellow.close() {
            if let Parcel::Request(request) = parcel {
                self.on_request(Request { to: NOBODY, ..request });
            }
        }
        self.fellow = None;
    }
}
