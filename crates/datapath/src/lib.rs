//! Kernel objects and their life: load, pin, attach, typed maps. The only user of aya.
