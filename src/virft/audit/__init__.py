"""Can a reward be gamed? Answers that know nothing, paid by the rules of a run, beside honest ones."""
