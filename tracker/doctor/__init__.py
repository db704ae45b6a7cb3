"""`tracker doctor`: checks of a deployment, from the broker to the browser's side of the proxy.

Theory of operation. The doctor goes the way of a message: is the broker there, does it let us
in, do messages come and can the gateway read them; is the gateway there and ready; do both
transports open through the URL that clients use; and does a message published to the broker
come out of both of them within a second. Each check gives one `Finding`. A check whose ground
is missing is "not applicable", with the name of what it waits for, so that the first failed
line is the one to mend.
"""
