"""OS::Imageflow::Image, a resource of Heat: "an image with this in it", which servers of the stack boot from.

heat-engine runs with its own Python, which has nothing of imageflow's: in this package only the standard library, heat and
keystoneauth are imported, and here nothing at all. packaging/heat makes a wheel of it; doc/heat.md says how it is installed.
"""
