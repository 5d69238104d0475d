"""Pull and push: blobs between registries and the content store, several at once, resumed after a cut.

``fetching`` asks by the pull policy, ``puller`` and ``pusher`` carry one out.
"""
