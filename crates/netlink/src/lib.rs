//! Links, addresses, routes and neighbours of this node, by rtnetlink.
