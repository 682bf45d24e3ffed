// What the viewer uses of three.js; see README.md.
export {
  BufferGeometry, Color, CylinderGeometry, DirectionalLight, Float32BufferAttribute, Fog,
  HemisphereLight, InstancedMesh, LineBasicMaterial, LineSegments, Matrix4, Mesh,
  MeshLambertMaterial, PCFShadowMap, PerspectiveCamera, PlaneGeometry, Quaternion, Scene,
  ShadowMaterial, SphereGeometry, Vector3, WebGLRenderer,
} from 'three';
export { OrbitControls } from 'three/examples/jsm/controls/OrbitControls.js';
