// A clean stop. SIGINT and SIGTERM raise a flag that long loops look at; a second SIGINT ends the program at
// once.
#pragma once

namespace harmonic {

// Installs the handlers. Call once, before other threads start.
void watch_for_interrupts();

// True once the program has been asked to stop. Any thread may ask; costs one load.
bool interrupted();

// Thrown by stop_if_interrupted(); the command line turns it into exit status 130. Not an Error: nothing went
// wrong.
struct Interrupted {};

// For loops that have nothing to save.
void stop_if_interrupted();

}  // namespace harmonic
