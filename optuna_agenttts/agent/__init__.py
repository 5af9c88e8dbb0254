"""The language model that plans: when it is asked, what it reads, how replies are used."""
