"""The same work over HTTP, for a page in the browser and for programs; needs the extra `serve`."""
