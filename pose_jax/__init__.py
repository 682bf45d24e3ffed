"""3D human pose estimation in video: temporal convolutions that lift 2D keypoints to 3D."""
