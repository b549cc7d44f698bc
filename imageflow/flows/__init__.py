"""One function per build method, whose body reads as the recipe of the method."""
