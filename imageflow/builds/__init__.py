"""From a request to images: submission, conductor, engine, and the states of builds."""
